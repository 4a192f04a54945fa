"""Descriptions of cards, against what their maker says of them."""

import pytest

from crlviz.errors import UsageError
from training.bench import cards

# From the data sheets: memory in GB, TB/s, and TFLOP/s without sparsity.
DATA_SHEETS = {
    "a100": (80, 2.039, {"float32": 19.5, "tf32": 156, "bfloat16": 312}),
    "h100": (80, 3.35, {"float32": 67, "tf32": 494, "bfloat16": 989}),
    "h200": (141, 4.8, {"float32": 67, "tf32": 494, "bfloat16": 989}),
    "l40s": (48, 0.864, {"float32": 91.6, "tf32": 183, "bfloat16": 362}),
}


@pytest.mark.parametrize("name", DATA_SHEETS)
def test_rates_and_memory_are_those_of_the_data_sheet(name):
    memory, bandwidth, teraflops = DATA_SHEETS[name]
    card = cards.read(name)
    assert name.upper() in card.name
    assert card.memory == pytest.approx(memory * 1e9, rel=0.08)  # some sheets count in GiB
    assert card.bandwidth == pytest.approx(bandwidth * 1e12, rel=0.01)
    assert card.flops.keys() == teraflops.keys()
    for precision, value in teraflops.items():
        assert card.flops[precision] == pytest.approx(value * 1e12, rel=0.02)


def test_all_that_come_with_crlviz_are_checked():
    assert cards.names() == sorted(DATA_SHEETS)


def test_a_description_in_a_file_is_read(tmp_path):
    file = tmp_path / "mine.txtpb"
    file.write_text(cards.read("a100").text.replace("core_count: 108", "core_count: 54 # half"))
    card = cards.read(str(file))
    assert card.text == file.read_text()
    for precision, value in cards.read("a100").flops.items():
        assert card.flops[precision] == pytest.approx(value / 2)


def test_without_rates_of_tensor_cores_float32_stands_for_them():
    text = cards.read("h100").text
    card = cards.parse(text[: text.index("  # Multiply-adds")] + "}\n", "h100")
    assert card.flops["tf32"] == card.flops["bfloat16"] == card.flops["float32"]


@pytest.mark.parametrize(
    ("text", "words"),
    [("gpu_device_info {}\n", "has no device_memory_size"), (None, "a100, h100, h200, l40s or a file")],
)
def test_what_is_no_description_is_refused(tmp_path, text, words):
    file = tmp_path / "other.txtpb"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UsageError, match=words):
        cards.read(str(file))

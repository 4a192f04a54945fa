// The panels: each body's scene, map, numbers and lines over time; and what the user does to them.

const paint = {draw: null};
function themed() {  // the colors of light or dark; the scene's sky and floor with them
  const style = getComputedStyle(document.documentElement), dark = matchMedia("(prefers-color-scheme: dark)").matches;
  theme = Object.fromEntries(["ink", "soft", "rule", "floor", "wall", "blue", "green"].map(name => [name, style.getPropertyValue(`--${name}`).trim()]));
  Object.assign(look, dark ? {sky: [.13, .15, .18], floor: [[.33, .34, .37], [.27, .28, .31]]} : DATA.bright);
  for (const [k, lane] of slots.entries()) lane.dark = dark;
  paint.draw = painter();
  if (told) told();
}
let theme = {};

function buildLane(lane, index) {
  const figure = document.createElement("figure");
  figure.innerHTML = `<figcaption><i></i><b></b> <span class="numbers"></span></figcaption>
    <canvas class="scene" role="img" aria-label="the body in its world; a click on the ground moves the goal" tabindex="0"></canvas>
    <div class="side"><canvas class="map" role="img" aria-label="map from above; a click moves the goal"></canvas>
    <p class="sees"></p><canvas class="plot" role="img" aria-label="way left to the goal and Q, over time"></canvas></div>`;
  const part = name => figure.querySelector(name);
  Object.assign(lane, {figure, canvas: part(".scene"), mapCanvas: part(".map"), plotCanvas: part(".plot"), numbers: part(".numbers"), seesLine: part(".sees"), pixels: document.createElement("canvas")});
  const shape = (mapRight - mapLeft) / (mapHigh - mapLow);
  Object.assign(lane.mapCanvas.style, {aspectRatio: shape, maxWidth: `${(55 * shape).toFixed(1)}vh`});
  point(lane);
  steer(lane.canvas);
  pointMap(lane);
  find("panels").append(figure);
}

// ---- the ground under the pointer
function onGround(lane, event) {  // [x, y] in meters where the ray through the pixel meets the plane of goals; null above the horizon
  const box = lane.canvas.getBoundingClientRect(), aspect = box.width / box.height, tall = Math.tan(view.fovy / 2);
  const across = (2 * (event.clientX - box.left) / box.width - 1) * aspect * tall, above = (1 - 2 * (event.clientY - box.top) / box.height) * tall;
  const camera = cameraOf(lane, lane.shown.focus, aspect), ray = add(add(camera.ahead, camera.right, across), camera.up, above);
  const t = (groundHeight() - camera.eye[2]) / ray[2];
  return t > 0 && Number.isFinite(t) ? [camera.eye[0] + t * ray[0], camera.eye[1] + t * ray[1]] : null;
}
const groundHeight = () => goalDim > 2 ? chosen.goal[2] : 0;
function goalOnScreen(lane) {  // pixels in the page; null behind the camera
  const box = lane.canvas.getBoundingClientRect(), aspect = box.width / box.height, zoom = 1 / Math.tan(view.fovy / 2);
  const camera = cameraOf(lane, lane.shown.focus, aspect), from = add([chosen.goal[0], chosen.goal[1] ?? 0, groundHeight()], camera.eye, -1), depth = dot(from, camera.ahead);
  if (depth <= 0) return null;
  return [box.left + box.width * (1 + dot(from, camera.right) * zoom / aspect / depth) / 2, box.top + box.height * (1 - dot(from, camera.up) * zoom / depth) / 2];
}
function point(lane) {  // before steer: a press on the goal drags it; a press that does not move is a click
  const {canvas} = lane;
  let pressed = null, dragging = false;
  canvas.addEventListener("pointerdown", event => {
    const goal = goalOnScreen(lane);
    pressed = event.isPrimary && event.button === 0 ? [event.clientX, event.clientY] : null;
    dragging = pressed && !event.shiftKey && goal && Math.hypot(goal[0] - event.clientX, goal[1] - event.clientY) < 22;
    if (dragging) { canvas.setPointerCapture(event.pointerId); event.stopImmediatePropagation(); }
  });
  canvas.addEventListener("pointermove", event => {
    if (pressed && Math.hypot(pressed[0] - event.clientX, pressed[1] - event.clientY) > 5) pressed = dragging ? pressed : null;
    if (!dragging) return;
    event.stopImmediatePropagation();
    const at = onGround(lane, event);
    if (at) { setGoal(at); moved(); }
  });
  canvas.addEventListener("pointerup", event => {
    const at = pressed && !dragging && onGround(lane, event);
    if (at) { event.shiftKey ? push(at) : setGoal(at); moved(); }
    pressed = null; dragging = false;
  });
  canvas.addEventListener("pointercancel", () => { pressed = null; dragging = false; });
}
function pointMap(lane) {
  const canvas = lane.mapCanvas, at = event => {
    const box = canvas.getBoundingClientRect();
    return [mapLow + (event.clientY - box.top) / box.height * (mapHigh - mapLow), mapLeft + (event.clientX - box.left) / box.width * (mapRight - mapLeft)];
  };
  canvas.addEventListener("pointerdown", event => {
    if (event.button) return;
    canvas.setPointerCapture(event.pointerId);
    event.shiftKey ? push(at(event)) : setGoal(at(event));
    moved();
  });
  canvas.addEventListener("pointermove", event => { if (event.buttons & 1 && !event.shiftKey) { setGoal(at(event)); moved(); } });
}

// ---- what a panel shows
function write(element, text) { if (element.textContent !== text) element.textContent = text; }
const fixed2 = x => Number.isFinite(x) ? x.toFixed(2) : "–";
function show(lane) {
  const {count} = lane;
  const parts = [`${(count.steps * DATA.seconds).toFixed(1)} s`, `${fixed2(count.way)} m left`];
  if (Number.isFinite(count.q)) parts.push(`Q ${fixed2(count.q)}`);
  if (count.fell >= 0) parts.push(`fell after ${count.fell} steps`);
  else if (count.reached >= 0) parts.push(`reached in ${count.reached} steps`);
  write(lane.numbers, parts.join(" · "));
  const sees = lane.sees?.map(fixed2);
  write(lane.seesLine, !chosen.map ? "" : !placeIndices || checkpointOf(lane.agent).q_map === null ? DATA.no_map :
    sees ? `Q ${fixed2(lane.map.low)} (dark) to ${fixed2(lane.map.high)}; it orders places as ${maze ? `the way through the maze ${sees[0]}, as ` : ""}the straight line ${sees[1]}` : "asking the critic ...");
  if (paint.draw) drawScene(lane.canvas, paint.draw, lane, lane.shown.focus, lane.shown.places);
  drawMap(lane, theme);
  drawPlot(lane);
}
function drawPlot(lane) {  // dark: way left in meters, from 0; blue: Q, from its least to its most
  const {plotCanvas: canvas, plot, count} = lane, wide = Math.round(canvas.clientWidth * sharp), tall = Math.round(canvas.clientHeight * sharp);
  if (!wide || !tall) return;
  fit(canvas, wide, tall);
  const context = canvas.getContext("2d"), text = 11 * sharp, left = 40 * sharp, right = wide - 44 * sharp, top = 18 * sharp, bottom = tall - 16 * sharp;
  context.clearRect(0, 0, wide, tall);
  let [most, low, high] = [DATA.near, Infinity, -Infinity];
  for (let k = 0; k < count.plotted; k++) {
    if (Number.isFinite(plot[3 * k + 1])) most = Math.max(most, plot[3 * k + 1]);
    if (Number.isFinite(plot[3 * k + 2])) { low = Math.min(low, plot[3 * k + 2]); high = Math.max(high, plot[3 * k + 2]); }
  }
  const first = count.plotted ? plot[0] : 0, span = Math.max(count.steps - first, 20);
  const x = step => left + (right - left) * (step - first) / span, meters = m => bottom - (bottom - top) * m / most;
  const q = value => bottom - (bottom - top) * (high > low ? (value - low) / (high - low) : .5);
  const line = (column, height, color, dash) => {
    context.beginPath();
    for (let k = 0, pen = false; k < count.plotted; k++) {
      const value = plot[3 * k + column];
      if (!Number.isFinite(value)) { pen = false; continue; }
      pen ? context.lineTo(x(plot[3 * k]), height(value)) : context.moveTo(x(plot[3 * k]), height(value));
      pen = true;
    }
    context.setLineDash(dash); context.strokeStyle = color; context.lineWidth = 1.5 * sharp; context.stroke(); context.setLineDash([]);
  };
  context.strokeStyle = theme.rule; context.lineWidth = sharp;
  context.beginPath(); context.moveTo(left, top); context.lineTo(left, bottom); context.lineTo(right, bottom); context.lineTo(right, top); context.stroke();
  context.setLineDash([3 * sharp, 3 * sharp]); context.strokeStyle = theme.green;
  context.beginPath(); context.moveTo(left, meters(DATA.near)); context.lineTo(right, meters(DATA.near)); context.stroke(); context.setLineDash([]);
  if (low <= high) line(2, q, theme.blue, [5 * sharp, 2 * sharp]);
  line(1, meters, theme.ink, []);
  context.font = `${text}px ${DATA.font}`; context.textBaseline = "alphabetic";
  const words = (what, at, base, align, color) => { context.textAlign = align; context.fillStyle = color; context.fillText(what, at, base); };
  words("way left", 0, 11 * sharp, "left", theme.ink); words(`${most.toPrecision(2)} m`, left - 3 * sharp, top + 10 * sharp, "right", theme.ink); words("0", left - 3 * sharp, bottom, "right", theme.ink);
  if (low <= high) {
    words("Q (dashed)", wide, 11 * sharp, "right", theme.blue);
    words(high.toFixed(1), right + 3 * sharp, top + 10 * sharp, "left", theme.blue); words(low.toFixed(1), right + 3 * sharp, bottom, "left", theme.blue);
  }
  words(`${(first * DATA.seconds).toFixed(0)} s`, left, tall - 3 * sharp, "left", theme.soft); words(`${((first + span) * DATA.seconds).toFixed(0)} s`, right, tall - 3 * sharp, "right", theme.soft);
}

// ---- controls
function told() {  // what the controls say follows the state
  write(find("play"), playing ? "pause" : "play");
  find("speed").value = String(chosen.speed);
  find("map").checked = chosen.map; find("arrows").checked = chosen.arrows; find("side").checked = chosen.side;
  find("slider").value = chosen.time;
  write(find("steps"), times[chosen.time].toLocaleString("en"));
  write(find("where"), `start ${chosen.start + 1} of ${starts.length}`);
  document.querySelectorAll("#agents button").forEach((button, k) => {
    button.setAttribute("aria-pressed", String(chosen.side || k === chosen.agent));
    button.firstChild.style.background = agents[k][slots[k].dark ? "dark" : "color"];
  });
  find("panels").classList.toggle("alone", lanes.length === 1);
  slots.forEach((lane, k) => {
    lane.figure.hidden = k >= lanes.length;
    lane.color = lane.agent[lane.dark ? "dark" : "color"];
    lane.figure.querySelector("i").style.background = lane.color;
    const steps = checkpointOf(lane.agent).steps;
    write(lane.figure.querySelector("b"), lane.agent.label + (times.length > 1 ? `, ${steps.toLocaleString("en")} steps` : ""));
    const critic = checkpointOf(lane.agent).q_map;
    if (lane.critic !== critic) Object.assign(lane, {critic, map: null, sees: null});
  });
}
function goHome() { find("top").checked = false; resetView(); if (view.follows) zoomBy(AFAR); }
const AFAR = 1.8;  // from farther away than a film is taken, so that goals are in the picture
const ACTIONS = {
  play: () => setPlaying(!playing), step: single, reset: () => { reset(); moved(); }, next: () => { goToStart(chosen.start + 1); told(); moved(); },
  push: () => { push(); moved(); }, home: goHome, png: savePicture,
};
const KEYS = {" ": "play", ArrowRight: "step", r: "reset", n: "next", p: "push"};
function listen() {
  for (const [name, action] of Object.entries(ACTIONS)) find(name).addEventListener("click", action);
  for (const name of ["map", "arrows"]) find(name).addEventListener("change", event => { chosen[name] = event.target.checked; told(); moved(); });
  find("side").addEventListener("change", event => sideBySide(event.target.checked));
  find("speed").addEventListener("change", event => { chosen.speed = +event.target.value; moved(); });
  find("slider").addEventListener("input", event => { chosen.time = +event.target.value; for (const lane of slots) lane.actor = null; told(); moved(); });
  for (const name of ["follow", "top"]) find(name).addEventListener("change", changed);
  agents.forEach((agent, k) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(document.createElement("i"), `${k + 1} ${agent.label}`);
    button.addEventListener("click", () => useAgent(k));
    find("agents").append(button);
  });
  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, input[type=range]")) return;
    if (event.key === " " && event.target.closest("button, input")) return;
    const index = "1234".indexOf(event.key);
    if (KEYS[event.key]) find(KEYS[event.key]).click();
    else if (index >= 0 && index < agents.length) useAgent(index);
    else if (event.key === "m") find("map").click();
    else if (event.key === "s" && agents.length > 1) find("side").click();
    else return;
    event.preventDefault();
  });
  addEventListener("hashchange", event => {  // the event's address: the page may have written its own since
    const {hash} = new URL(event.newURL);
    if (hash !== linkState()) { restore(hash); told(); moved(); }
  });
  document.addEventListener("visibilitychange", () => { last = null; });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { themed(); changed(); });
  new ResizeObserver(changed).observe(find("panels"));
}
function savePicture() {  // all panels one below the other, as they are now
  const parts = lanes.map(lane => [lane.canvas, lane.mapCanvas, lane.plotCanvas].filter(one => one.width > 1)), gap = 16, title = 28 * sharp;
  const rows = parts.map(([scene, ...side]) => ({scene, side, wide: scene.width + gap + Math.max(...side.map(one => one.width)), tall: title + Math.max(scene.height, side.reduce((sum, one) => sum + one.height + gap, 0))}));
  const canvas = document.createElement("canvas"), context = canvas.getContext("2d");
  canvas.width = Math.max(...rows.map(row => row.wide)) + 2 * gap;
  canvas.height = rows.reduce((sum, row) => sum + row.tall + gap, gap);
  context.fillStyle = getComputedStyle(document.body).backgroundColor; context.fillRect(0, 0, canvas.width, canvas.height);
  let top = gap;
  rows.forEach((row, k) => {
    context.fillStyle = theme.ink; context.font = `${14 * sharp}px ${DATA.font}`; context.textBaseline = "top";
    context.fillText(lanes[k].figure.querySelector("figcaption").textContent.trim(), gap, top);
    context.drawImage(row.scene, gap, top + title);
    let down = top + title;
    for (const one of row.side) { context.drawImage(one, 2 * gap + row.scene.width, down); down += one.height + gap; }
    top += row.tall + gap;
  });
  canvas.toBlob(blob => {
    const link = Object.assign(document.createElement("a"), {href: URL.createObjectURL(blob), download: `${DATA.env}.png`});
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
}

// ---- start
DATA.bright = {sky: look.sky, floor: look.floor};
slots.forEach(buildLane);
themed();
if (!paint.draw) {
  find("missing").hidden = false;
  find("missing").textContent = "This browser offers no WebGL 2, which the moving picture needs; the map and the numbers work without it.";
  slots.forEach(lane => { lane.canvas.hidden = true; });
}
find("slider").max = times.length - 1;
find("training").hidden = times.length < 2;
find("sides").hidden = agents.length < 2;
find("following").hidden = !view.follows;
find("push").hidden = environment.push === null;
find("maps").hidden = find("arrowed").hidden = !placeIndices || !hasMaps;
listen();
goHome();
restore(location.hash);
told();
moved();
window.crlviz = {chosen, lanes: () => lanes, slots, starts, agents, setGoal, reset, goToStart, useAgent, sideBySide, push, setPlaying, step, single, restore, linkState, ways: () => ways, state: () => ({...chosen, playing, agent: chosen.agent})};

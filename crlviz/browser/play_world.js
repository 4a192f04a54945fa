// What moves in the page of crlviz play: programs, bodies and their clock; and the link that restores a view.
const MOST_TRAIL = 1200, MOST_PLOT = 400;  // points of a trail, and of the lines over time
const SLOWEST = 25;  // ms of a frame for steps; what does not fit is left out, and the page says how fast it is

// ---- programs: emitted functions and their constants, built when first used
const built = new Map(), blobs = DATA.blobs;
function bytesOf(text) {
  const letters = atob(text), bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes.buffer;
}
function program(index) {
  if (!built.has(index)) built.set(index, SOURCES[DATA.programs[index].source](bytesOf(blobs[DATA.programs[index].blob])));
  return built.get(index);
}

// ---- bodies, up to four side by side; a lane is a body with the agent that moves it
const {agents, goalDim, stateDim, placeIndices, recorded, environment} = DATA;
const LEAVES = DATA.leaves, OBS = LEAVES, DONE = OBS + 1, DISTANCE = OBS + 2, SUCCESS = OBS + 3, FOCUS = OBS + 4, GEOMS = OBS + 5;  // what programs make
const times = [...new Set(agents.flatMap(agent => agent.checkpoints.map(one => one.steps)))].sort((a, b) => a - b);
for (const episode of recorded?.flat() ?? []) for (const name of ["obs", "places", "focus", "distance"]) episode[name] = floats(episode[name]);
const starts = recorded ? recorded[0].map(episode => ({obs: episode.obs.subarray(0, stateDim + goalDim)})) : DATA.starts.map(fields => {
  const made = fields.map(({data, integer}) => integer ? new Int32Array(bytesOf(data)) : new Float32Array(bytesOf(data)));
  return {made, obs: made[OBS]};
});
for (const start of starts) start.goal = Array.from(start.obs.subarray(stateDim));
const chosen = {agent: 0, start: 0, goal: starts[0].goal, speed: 1, map: true, arrows: false, side: false, time: times.length - 1};
const checkpointOf = agent => agent.checkpoints[Math.max(0, agent.checkpoints.filter(one => one.steps <= times[chosen.time]).length - 1)];

function newLane() {
  const snapshot = () => ({places: new Float32Array(7 * moving), focus: new Float32Array(3)});
  return {
    agent: agents[0], leaves: recorded ? [] : starts[0].made.slice(0, LEAVES).map(leaf => leaf.slice()), obs: new Float32Array(stateDim + goalDim),
    now: snapshot(), before: snapshot(), shown: snapshot(), turn: 0, rest: null, actor: null, action: null,
    count: {steps: 0, distance: 0, success: 0, atGoal: 0, reached: -1, fell: -1, q: NaN, way: NaN, trailed: 0, plotted: 0, since: 0},
    trail: new Float32Array(2 * MOST_TRAIL), plot: new Float32Array(3 * MOST_PLOT),  // x, y; and step, way left, Q
  };
}
const slots = agents.map(newLane);
let lanes = slots.slice(0, 1);

function copyBody(from, to) {
  if (from === to) return;
  from.leaves.forEach((leaf, k) => to.leaves[k].set(leaf));
  for (const part of ["now", "before", "shown"]) { to[part].places.set(from[part].places); to[part].focus.set(from[part].focus); }
  to.obs.set(from.obs); to.trail.set(from.trail); to.plot.set(from.plot);
  to.rest = from.rest; to.actor = null; Object.assign(to.count, from.count);
}
function take(lane, made) {  // what a program made: copied, because its next run overwrites it
  lane.leaves.forEach((leaf, k) => leaf.set(made[k]));
  lane.actor = null;
  lane.obs.set(made[OBS]); lane.now.places.set(made[GEOMS]); lane.now.focus.set(made[FOCUS]);
  lane.count.distance = made[DISTANCE][0]; lane.count.success = made[SUCCESS][0];
}
function still(lane) { lane.before.places.set(lane.now.places); lane.before.focus.set(lane.now.focus); }
const ACHIEVED = placeIndices ?? DATA.achieved;  // where an observation holds x, y of what must reach the goal
const placeOf = lane => ACHIEVED ? [lane.obs[ACHIEVED[0]], lane.obs[ACHIEVED[1]]] : [lane.now.focus[0], lane.now.focus[1]];

const ownGoals = !recorded && environment.set_goal === null;  // the environment alone sets its goals
function setGoal(goal) {  // meters; as many numbers as are given
  if (ownGoals) return;
  chosen.goal = chosen.goal.map((old, k) => Number.isFinite(goal[k]) ? goal[k] : old);
  if (chosen.goal.length > 1) [chosen.goal[0], chosen.goal[1]] = freeNear(chosen.goal[0], chosen.goal[1]);
  for (const lane of recorded ? [] : lanes) {  // a recorded body goes on to its own goal; the map shows this one
    take(lane, program(environment.set_goal).run([...lane.leaves, Float32Array.from(chosen.goal)]));
    lane.before.places.set(lane.now.places);
    Object.assign(lane.count, {reached: -1, atGoal: 0, since: lane.count.steps});
  }
  goalMoved();
}
function reset() {  // all bodies to the chosen start; the goal stays
  for (const lane of lanes) {
    Object.assign(lane.count, {steps: 0, atGoal: 0, reached: -1, fell: -1, q: NaN, trailed: 0, plotted: 0, since: 0});
    lane.rest = null;
    recorded ? showRow(lane) : take(lane, starts[chosen.start].made);
  }
  ownGoals ? goalMoved() : setGoal(chosen.goal);
  lanes.forEach(still);
  lanes.forEach(mark);
}
function goToStart(index, goal) {
  chosen.start = (index + starts.length) % starts.length;
  chosen.goal = Array.from(!ownGoals && goal || starts[chosen.start].goal);
  reset();
}
function push(toward) {  // toward [2]: a place; else away from the goal
  if (environment.push === null) return;
  for (const lane of lanes) {
    const [x, y] = placeOf(lane), at = toward ?? [2 * x - chosen.goal[0], 2 * y - (chosen.goal[1] ?? 0)];
    const way = Math.hypot(at[0] - x, at[1] - y) || 1, size = DATA.push / way;
    const impulse = Float32Array.of((at[0] - x) * size, (at[1] - y) * size);
    take(lane, program(environment.push).run([...lane.leaves, impulse]));
  }
}

// ---- a body that the page cannot move: its recorded episode, an agent's own
function showRow(lane) {
  const episode = recorded[agents.indexOf(lane.agent)][chosen.start], row = Math.min(lane.count.steps, episode.distance.length - 1);
  for (const [name, to] of [["obs", lane.obs], ["places", lane.now.places], ["focus", lane.now.focus]]) {
    to.set(episode[name].subarray(row * to.length, (row + 1) * to.length));
  }
  lane.actor = null;
  [lane.count.distance, lane.count.success] = [episode.distance[row], +(episode.distance[row] < DATA.near)];
  if (episode.fell !== null && row >= episode.fell && lane.count.fell < 0) lane.count.fell = episode.fell;
}

function actionOf(lane) {  // the policy's mean, for what the body observes now
  const {act} = checkpointOf(lane.agent);
  if (lane.actor !== act) { lane.action = program(act).run([lane.obs])[0].slice(); lane.actor = act; }
  return lane.action;
}
function step(lane) {
  still(lane);
  const {count} = lane;
  count.steps++;
  if (recorded) showRow(lane);
  else {
    const made = program(environment.step).run([...lane.leaves, actionOf(lane)]);
    take(lane, made);
    if (made[DONE][0] > 0 && count.fell < 0) count.fell = count.steps;
  }
  if (count.success > 0) { count.atGoal++; if (count.reached < 0) count.reached = count.steps - count.since; }
  mark(lane);
}
function mark(lane) {  // the trail goes on where the body has moved
  const {count, trail} = lane, [x, y] = placeOf(lane), k = 2 * (count.trailed - 1);
  if (count.trailed && Math.hypot(trail[k] - x, trail[k + 1] - y) < .004 * mapSize) return;
  if (count.trailed === MOST_TRAIL) { trail.copyWithin(0, 2); count.trailed--; }
  trail.set([x, y], 2 * count.trailed++);
}
function measure(lane) {  // Q of the policy's action, and the way left, once a frame
  const {count, plot} = lane, checkpoint = checkpointOf(lane.agent);
  if (checkpoint.q !== null) count.q = program(checkpoint.q).run([lane.obs, actionOf(lane)])[0][0];
  count.way = wayLeft(lane);
  if (count.plotted && plot[3 * (count.plotted - 1)] === count.steps) count.plotted--;
  if (count.plotted === MOST_PLOT) { plot.copyWithin(0, 3); count.plotted--; }
  plot.set([count.steps, count.way, count.q], 3 * count.plotted++);
}

// ---- the clock
let playing = false, owed = 0, last = null, waiting = false, pace = 1, measured = -1;
function changed() { if (!waiting) { waiting = true; requestAnimationFrame(tick); } }
function tick(now) {
  waiting = false;
  let stepped = false;
  if (playing && last !== null) {
    const wanted = Math.min(now - last, 250) / 1000 * chosen.speed / DATA.seconds, until = performance.now() + SLOWEST;
    owed += wanted;
    let done = 0;
    while (owed >= 1 && (done === 0 || performance.now() < until)) { lanes.forEach(step); owed--; done++; }
    stepped = done > 0;
    if (owed >= 1) { pace += .1 * (done / (done + owed - owed % 1) - pace); owed %= 1; } else if (done) pace += .1 * (1 - pace);
  }
  last = playing ? now : null;
  if (stepped || measured !== moves) { lanes.forEach(measure); measured = moves; }
  for (const lane of lanes) for (const part of ["places", "focus"]) mix(lane.before[part], lane.now[part], playing ? owed || 1e-6 : 1, lane.shown[part]);
  lanes.forEach(show);
  write(find("pace"), playing && pace < .8 ? `this machine makes ${(pace * chosen.speed).toFixed(2)}×` : "");
  askForMaps();
  if (playing) changed();
}
let moves = 0;  // counts what the user changed, so that a still page is measured anew
function moved() { moves++; remember(); changed(); }
function setPlaying(value) { playing = value; last = null; owed = 0; lanes.forEach(still); told(); moved(); }
function single() { setPlaying(false); lanes.forEach(step); moved(); }

function useAgent(index) {
  if (!agents[index]) return;
  if (chosen.side) { copyBody(slots[index], slots[0]); chosen.side = false; lanes = slots.slice(0, 1); }
  chosen.agent = index;
  slots[0].agent = agents[index];
  if (recorded) reset();
  told(); moved();
}
function sideBySide(value) {
  if (value === chosen.side) return;
  if (!value) return useAgent(chosen.agent);
  chosen.side = true;
  for (const lane of slots) copyBody(slots[0], lane);
  slots.forEach((lane, k) => { lane.agent = agents[k]; });
  lanes = slots;
  if (recorded) reset();
  told(); moved();
}

// ---- the link: what of the view differs from how the page opens
function linkState() {
  const short = x => +x.toFixed(3);
  const parts = [`agent=${chosen.agent + 1}`, `start=${chosen.start + 1}`, `goal=${chosen.goal.map(short).join()}`, `speed=${chosen.speed}`];
  for (const name of ["map", "arrows", "side"]) parts.push(`${name}=${+chosen[name]}`);
  if (times.length > 1) parts.push(`steps=${times[chosen.time]}`);
  parts.push(`play=${+playing}`);
  return "#" + parts.join("&");
}
function restore(text) {  // the link's parts that make sense; the others are left out
  const told = new URLSearchParams(text.replace(/^#/, "")), number = name => told.has(name) ? Number(told.get(name)) : NaN;
  const whole = (name, most) => Number.isInteger(number(name)) && number(name) >= 1 && number(name) <= most ? number(name) - 1 : null;
  if ([...document.querySelectorAll("#speed option")].some(one => +one.value === number("speed"))) chosen.speed = number("speed");
  for (const name of ["map", "arrows"]) if (told.has(name)) chosen[name] = number(name) > 0;
  if (number("steps") >= 0) chosen.time = Math.max(0, times.filter(steps => steps <= number("steps")).length - 1);
  const goal = (told.get("goal") ?? "").split(",").map(text => text === "" ? NaN : Number(text));
  const named = told.get("agent") ?? "", labeled = named === "" ? -1 : agents.findIndex(agent => `${agent.label},`.startsWith(`${named},`));
  const agent = whole("agent", agents.length) ?? (labeled < 0 ? null : labeled);
  find("unknown").hidden = agent !== null || named === "";
  find("unknown").textContent = `The link names an agent that this page does not hold: ${named}.`;
  useAgent(agent ?? chosen.agent);
  const start = whole("start", starts.length) ?? nearestStart((told.get("from") ?? "").split(",").map(Number)) ?? chosen.start;
  const own = Array.from(starts[start].goal);
  goToStart(start, own.map((old, k) => Number.isFinite(goal[k]) ? goal[k] : old));
  if (told.has("side")) sideBySide(number("side") > 0 && agents.length > 1);
  playing = told.has("play") ? number("play") > 0 : !matchMedia("(prefers-reduced-motion: reduce)").matches;
  last = null;
}
function nearestStart([x, y]) {
  if (!Number.isFinite(x) || !Number.isFinite(y)) return null;
  const [i, j] = placeIndices ?? [0, 1], far = starts.map(({obs}) => Math.hypot(obs[i] - x, obs[j] - y));
  return far.indexOf(Math.min(...far));
}
let remembering = 0;
function remember() {  // a little later, because browsers allow few changes of the address in a second
  find("link").href = linkState();
  clearTimeout(remembering);
  remembering = setTimeout(() => { try { history.replaceState(null, "", linkState()); } catch { /* a page inside another may not */ } }, 250);
}

// What the critic sees: Q over the places of the map, computed in a worker, and how well it orders them.

// ---- the way through the maze: exact, by the corners of walls that see each other. Lengths in cells, cell k spans [k, k + 1].
const maze = DATA.maze;
const toCells = maze ? ([x, y]) => [(x - maze.origin[0]) / maze.cell + .5, (y - maze.origin[1]) / maze.cell + .5] : null;
const toMeters = maze ? ([i, j]) => [(i - .5) * maze.cell + maze.origin[0], (j - .5) * maze.cell + maze.origin[1]] : null;
const isWall = (i, j) => maze.rows[i]?.[j] === undefined || maze.rows[i][j] === "#";
function solid(x, y) {  // on a face between a wall and a free cell one may go
  const near = 1e-7, i = Math.floor(x - near), j = Math.floor(y - near), i2 = Math.floor(x + near), j2 = Math.floor(y + near);
  return isWall(i, j) && isWall(i2, j) && isWall(i, j2) && isWall(i2, j2);
}
function pinch(x, y) {  // a point where two walls touch at their corners, through which nothing passes
  const i = Math.round(x), j = Math.round(y);
  if (Math.abs(x - i) > 1e-6 || Math.abs(y - j) > 1e-6) return false;
  return isWall(i - 1, j - 1) === isWall(i, j) && isWall(i - 1, j) === isWall(i, j - 1) && isWall(i, j) !== isWall(i - 1, j);
}
function sees(ax, ay, bx, by) {  // whether no wall lies between two points: cell by cell along the line
  const dx = bx - ax, dy = by - ay, near = 1e-9;
  for (let t = 0; t < 1;) {
    const x = ax + t * dx, y = ay + t * dy;
    const tx = dx > 0 ? (Math.floor(x + near) + 1 - ax) / dx : dx < 0 ? (Math.ceil(x - near) - 1 - ax) / dx : 1;
    const ty = dy > 0 ? (Math.floor(y + near) + 1 - ay) / dy : dy < 0 ? (Math.ceil(y - near) - 1 - ay) / dy : 1;
    const next = Math.min(1, Math.max(Math.min(tx, ty), t + near)), middle = (t + next) / 2;
    if (t > 0 && pinch(x, y)) return false;
    if (next - t > 4 * near && solid(ax + middle * dx, ay + middle * dy)) return false;
    t = next;
  }
  return true;
}
let corners = null, between = null;  // corners [2C], and the lengths [C, C] between those that see each other
function findCorners() {
  corners = [];
  for (let i = 1; i < maze.rows.length; i++) for (let j = 1; j < maze.rows[0].length; j++) {
    if (isWall(i - 1, j - 1) + isWall(i, j - 1) + isWall(i - 1, j) + isWall(i, j) === 1) corners.push(i, j);
  }
  const count = corners.length / 2;
  between = new Float32Array(count * count).fill(Infinity);
  for (let a = 0; a < count; a++) for (let b = 0; b < a; b++) {
    const [ax, ay, bx, by] = [corners[2 * a], corners[2 * a + 1], corners[2 * b], corners[2 * b + 1]];
    if (sees(ax, ay, bx, by)) between[a * count + b] = between[b * count + a] = Math.hypot(ax - bx, ay - by);
  }
}
function waysTo(goal) {  // a function from a place to the meters of the shortest way to the goal; Infinity if there is none
  if (!maze) return ([x, y]) => Math.hypot(x - goal[0], y - (goal[1] ?? 0));
  if (!corners) findCorners();
  const [gx, gy] = toCells(goal), count = corners.length / 2, far = new Float64Array(count), done = new Uint8Array(count);
  for (let c = 0; c < count; c++) far[c] = sees(gx, gy, corners[2 * c], corners[2 * c + 1]) ? Math.hypot(gx - corners[2 * c], gy - corners[2 * c + 1]) : Infinity;
  for (;;) {  // Dijkstra
    let nearest = -1;
    for (let c = 0; c < count; c++) if (!done[c] && far[c] < Infinity && (nearest < 0 || far[c] < far[nearest])) nearest = c;
    if (nearest < 0) break;
    done[nearest] = 1;
    for (let c = 0; c < count; c++) far[c] = Math.min(far[c], far[nearest] + between[nearest * count + c]);
  }
  return place => {
    const [x, y] = toCells(place);
    if (solid(x, y)) return Infinity;
    let best = sees(gx, gy, x, y) ? Math.hypot(gx - x, gy - y) : Infinity;
    for (let c = 0; c < count; c++) {
      const length = far[c] + Math.hypot(x - corners[2 * c], y - corners[2 * c + 1]);
      if (length < best && sees(corners[2 * c], corners[2 * c + 1], x, y)) best = length;
    }
    return best * maze.cell;
  };
}
function freeNear(x, y) {  // the place itself; of a place in a wall, the nearest in a free cell, away from its faces
  const [low, high, left, right] = ground.extent;
  if (!maze) return [Math.min(Math.max(x, low), high), Math.min(Math.max(y, left), right)];
  const [u, v] = toCells([x, y]);
  if (!isWall(Math.floor(u), Math.floor(v))) return [x, y];
  let best = null, least = Infinity;
  maze.rows.forEach((row, i) => [...row].forEach((letter, j) => {
    if (letter === "#") return;
    const at = [Math.min(Math.max(u, i + .25), i + .75), Math.min(Math.max(v, j + .25), j + .75)], far = Math.hypot(at[0] - u, at[1] - v);
    if (far < least) { least = far; best = at; }
  }));
  return toMeters(best);
}

// ---- the places of the map: a grid; finer where the critic is quick
const mapSize = Math.max(ground.extent[1] - ground.extent[0], ground.extent[3] - ground.extent[2]);
function gridOf(detail) {  // points [2N] that are free, and for each pixel [X, Y] its point or -1
  const [low, high, left, right] = ground.extent;
  const side = maze ? maze.cell / detail : mapSize / (6 * detail);
  const X = Math.max(1, Math.round((high - low) / side)), Y = Math.max(1, Math.round((right - left) / side)), pixel = new Int32Array(X * Y).fill(-1), points = [];
  for (let i = 0; i < X; i++) for (let j = 0; j < Y; j++) {
    const x = low + (i + .5) * side, y = left + (j + .5) * side;
    if (maze && solid(...toCells([x, y]))) continue;
    pixel[i * Y + j] = points.length / 2;
    points.push(x, y);
  }
  return {X, Y, side, pixel, points: Float32Array.from(points), count: points.length / 2};
}
const freeCells = maze ? maze.rows.join("").replaceAll("#", "").length : 36;
let detail = Math.min(6, Math.max(1, Math.floor(Math.sqrt(900 / freeCells)))), grid = gridOf(detail);
let ways = null, wayOfPoint = null, straightOfPoint = null;
function goalMoved() {
  ways = waysTo(chosen.goal);
  measureGrid();
}
function measureGrid() {  // ranks of the points by both distances, for the correlations
  const all = Array.from({length: grid.count}, (_, k) => [grid.points[2 * k], grid.points[2 * k + 1]]);
  wayOfPoint = ranks(all.map(ways));
  straightOfPoint = ranks(all.map(([x, y]) => Math.hypot(x - chosen.goal[0], y - (chosen.goal[1] ?? 0))));
}
const wayLeft = lane => maze && placeIndices ? ways(placeOf(lane)) : lane.count.distance;

function ranks(values) {  // from 0; the mean rank among equals, as Spearman's correlation needs
  const order = Array.from(values, (_, k) => k).sort((a, b) => values[a] - values[b] || 0), result = new Float64Array(values.length);
  for (let k = 0; k < order.length;) {
    let stop = k + 1;
    while (stop < order.length && values[order[stop]] === values[order[k]]) stop++;
    for (let i = k; i < stop; i++) result[order[i]] = (k + stop - 1) / 2;
    k = stop;
  }
  return result;
}
function correlation(a, b) {
  const mean = row => row.reduce((sum, x) => sum + x, 0) / row.length, [ma, mb] = [mean(a), mean(b)];
  let [ab, aa, bb] = [0, 0, 0];
  for (let k = 0; k < a.length; k++) { ab += (a[k] - ma) * (b[k] - mb); aa += (a[k] - ma) ** 2; bb += (b[k] - mb) ** 2; }
  return aa && bb ? ab / Math.sqrt(aa * bb) : NaN;
}

// ---- Q over the places, in a worker, so that the bodies move on; one question at a time, of the lane asked longest ago
const hasMaps = agents.some(agent => agent.checkpoints.some(one => one.q_map !== null));
function work() {  // runs in the worker: rows of observations with another place in them
  const ready = new Map();
  onmessage = ({data: {id, source, constants, obs, places, points}}) => {
    if (constants) ready.set(id, SOURCES[source](constants));
    const {run, inputs} = ready.get(id), size = obs.length, batch = inputs[0].length / size, count = points.length / 2, q = new Float32Array(count);
    const rows = new Float32Array(batch * size), begun = performance.now();
    for (let first = 0; first < count; first += batch) {
      for (let k = 0; k < batch; k++) {
        const point = Math.min(first + k, count - 1);
        rows.set(obs, k * size);
        rows[k * size + places[0]] = points[2 * point]; rows[k * size + places[1]] = points[2 * point + 1];
      }
      q.set(run([rows])[0].subarray(0, Math.min(batch, count - first)), first);
    }
    postMessage({q, took: performance.now() - begun}, [q.buffer]);
  };
}
const SLOW = 400;  // ms of an answer; after three in a row that take longer, the next are coarser
let worker = null, asked = null, slow = 0;
const sent = new Set();
function startWorker() {
  const used = new Set(agents.flatMap(agent => agent.checkpoints.map(one => one.q_map)).filter(k => k !== null).map(k => DATA.programs[k].source));
  const code = `"use strict"; const SOURCES = {${[...used].map(k => `${k}: ${SOURCES[k]}`).join(",\n")}};\n(${work})();`;
  worker = new Worker(URL.createObjectURL(new Blob([code], {type: "text/javascript"})));
  worker.onmessage = ({data}) => {
    const {lane, key, critic, goal, grid: at} = asked;
    asked = null;
    if (at === grid && critic === lane.critic) {
      lane.map = {q: data.q, key};
      if (goal === ways) {  // not asked for a goal that has moved since
        const order = ranks(data.q).map(rank => -rank);
        lane.sees = [correlation(order, wayOfPoint), correlation(order, straightOfPoint)];
      }
      colorMap(lane);
      slow = data.took > SLOW ? slow + 1 : 0;
      if (slow > 2 && detail > 1) { detail--; slow = 0; grid = gridOf(detail); measureGrid(); }
    }
    changed();
  };
}
const keyOf = lane => `${checkpointOf(lane.agent).q_map} ${Array.from(lane.obs, x => x.toFixed(3)).join()} ${chosen.goal} ${detail}`;
function askForMaps() {
  if (asked || !chosen.map || !hasMaps || !placeIndices) return;
  if (!worker) startWorker();
  const stale = lanes.filter(lane => checkpointOf(lane.agent).q_map !== null && lane.map?.key !== keyOf(lane)).sort((a, b) => (a.askedAt ?? 0) - (b.askedAt ?? 0));
  if (!stale.length) return;
  const lane = stale[0], id = checkpointOf(lane.agent).q_map, obs = lane.obs.slice();
  if (recorded) obs.set(chosen.goal, stateDim);
  asked = {lane, key: keyOf(lane), critic: id, goal: ways, grid};
  lane.askedAt = performance.now();
  const constants = sent.has(id) ? null : bytesOf(blobs[DATA.programs[id].blob]);
  sent.add(id);
  worker.postMessage({id, source: DATA.programs[id].source, constants, obs, places: placeIndices, points: grid.points});
}

// ---- the map's picture: colors once for each answer, everything else once a frame
const stops = DATA.colors.scale.map(hex => [1, 3, 5].map(k => parseInt(hex.slice(k, k + 2), 16)));
const COLORS = Array.from({length: 256}, (_, level) => {
  const at = level / 255 * (stops.length - 1), low = Math.min(Math.floor(at), stops.length - 2);
  return stops[low].map((value, k) => Math.round(value + (at - low) * (stops[low + 1][k] - value)));
});
function colorMap(lane) {
  const {q} = lane.map, {X, Y, pixel} = grid, context = lane.pixels.getContext("2d");
  fit(lane.pixels, Y, X);
  let [low, high] = [Infinity, -Infinity];
  for (const value of q) { low = Math.min(low, value); high = Math.max(high, value); }
  Object.assign(lane.map, {low, high, grid});
  const image = context.createImageData(Y, X);
  for (let k = 0; k < X * Y; k++) {
    if (pixel[k] < 0) continue;
    const level = Math.round(255 * (q[pixel[k]] - low) / (high - low || 1)) || 0;
    image.data.set(COLORS[level], 4 * k);
    image.data[4 * k + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}
const [mapLow, mapHigh, mapLeft, mapRight] = ground.extent;
function drawMap(lane, theme) {
  const canvas = lane.mapCanvas, wide = Math.round(canvas.clientWidth * sharp), tall = Math.round(wide * (mapHigh - mapLow) / (mapRight - mapLeft));
  if (!wide) return;
  fit(canvas, wide, tall);
  const context = canvas.getContext("2d"), zoom = wide / (mapRight - mapLeft), x = y => (y - mapLeft) * zoom, y = x => (x - mapLow) * zoom;
  context.fillStyle = theme.floor; context.fillRect(0, 0, wide, tall);
  const seen = chosen.map && lane.map;
  if (seen) {
    context.imageSmoothingEnabled = false;
    const {side, X, Y} = lane.map.grid;
    context.drawImage(lane.pixels, 0, 0, Y * side * zoom, X * side * zoom);
  }
  context.fillStyle = theme.wall;
  for (const [i, j] of ground.walls) context.fillRect(x(j) - .5, y(i) - .5, ground.cell * zoom + 1, ground.cell * zoom + 1);
  if (seen && chosen.arrows) drawArrows(context, lane.map, zoom, x, y);
  const {trail, count} = lane, unit = wide / 100;
  context.lineJoin = "round";
  for (const [width, color] of [[1.6, "#000"], [1, "#fff"]]) {  // white on black: visible on every color of the map
    context.beginPath();
    for (let k = 0; k < count.trailed; k++) context.lineTo(x(trail[2 * k + 1]), y(trail[2 * k]));
    context.lineWidth = width * unit; context.strokeStyle = color; context.stroke();
  }
  const spot = (at, radius, color) => { context.beginPath(); context.arc(at[0], at[1], radius, 0, 2 * Math.PI); context.fillStyle = color; context.fill(); context.lineWidth = .6 * unit; context.strokeStyle = "#000"; context.stroke(); };
  const goal = [x(chosen.goal[1] ?? 0), y(chosen.goal[0])], [px, py] = placeOf(lane);
  context.beginPath(); context.arc(...goal, DATA.near * zoom, 0, 2 * Math.PI); context.lineWidth = .5 * unit; context.setLineDash([2 * unit, unit]); context.strokeStyle = "#fff"; context.stroke(); context.setLineDash([]);
  context.beginPath();
  for (let k = 0; k < 10; k++) {
    const angle = Math.PI * (k / 5 - .5), radius = (k % 2 ? 1.7 : 3.6) * unit;
    context.lineTo(goal[0] + radius * Math.cos(angle), goal[1] + radius * Math.sin(angle));
  }
  context.closePath(); context.fillStyle = DATA.colors.goal; context.fill(); context.lineWidth = .6 * unit; context.strokeStyle = "#000"; context.stroke();
  const inside = (value, most) => Math.min(Math.max(value, 2 * unit), most - 2 * unit);
  spot([inside(x(py), wide), inside(y(px), tall)], 2.1 * unit, lane.color);
}
function drawArrows(context, {q, grid: {X, Y, side, pixel, points}}, zoom, x, y) {  // where Q rises, by differences of neighbors
  const value = (i, j) => i >= 0 && j >= 0 && i < X && j < Y && pixel[i * Y + j] >= 0 ? q[pixel[i * Y + j]] : NaN;
  const every = Math.max(1, Math.round(30 * sharp / 2 / (side * zoom))), size = .8 * Math.max(every * side * zoom, 10);
  const slope = (back, here, on) => Number.isFinite(back) && Number.isFinite(on) ? (on - back) / 2 : Number.isFinite(on) ? on - here : Number.isFinite(back) ? here - back : 0;
  context.strokeStyle = "#fff"; context.fillStyle = "#fff";
  for (let i = every >> 1; i < X; i += every) for (let j = every >> 1; j < Y; j += every) {
    const here = value(i, j);
    if (!Number.isFinite(here)) continue;
    const up = slope(value(i - 1, j), here, value(i + 1, j)), right = slope(value(i, j - 1), here, value(i, j + 1)), length = Math.hypot(up, right);
    if (!length) continue;
    const [dx, dy] = [right / length, up / length], k = pixel[i * Y + j], [cx, cy] = [x(points[2 * k + 1]), y(points[2 * k])];
    const at = (along, across) => [cx + size * (along * dx - across * dy), cy + size * (along * dy + across * dx)];
    context.lineWidth = size * .1;
    context.beginPath(); context.moveTo(...at(-.5, 0)); context.lineTo(...at(.2, 0)); context.stroke();
    context.beginPath(); context.moveTo(...at(.5, 0)); context.lineTo(...at(.1, .22)); context.lineTo(...at(.1, -.22)); context.fill();
  }
}

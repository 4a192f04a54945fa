// The 3-D scene of the pages, in WebGL 2: what it shows, its painter, its camera. A page puts its data into the element
// "data", and defines changed(), which draws it anew, and the checkboxes "top" and "follow".
const DATA = JSON.parse(document.getElementById("data").textContent);
const {look, view, geoms, ground} = DATA;
const find = id => document.getElementById(id);
const floats = text => new Float32Array(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer);
const standing = floats(DATA.standing), fixed = standing.length / 7, moving = geoms.length - fixed;

// ---- vectors, and places between two frames
const add = (a, b, k = 1) => a.map((x, i) => x + k * b[i]);
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const unit = a => a.map(x => x / Math.hypot(...a));
const round = (cos, sin, [x, y, z]) => [cos * x - sin * y, sin * x + cos * y, z];

function mix(low, high, share, out) {  // between two rows: of geoms (position, quaternion), or of points
  const geom = out.length === 7 * moving && share > 0;
  for (let i = 0; i < out.length; i++) out[i] = share > 0 ? low[i] * (1 - share) + high[i] * share : low[i];
  if (geom) for (let at = 3; at < out.length; at += 7) {  // q and -q are one rotation
    let same = 0, norm = 0;
    for (let i = at; i < at + 4; i++) same += low[i] * high[i];
    for (let i = at; i < at + 4; i++) {
      out[i] = low[i] * (1 - share) + Math.sign(same || 1) * high[i] * share;
      norm += out[i] * out[i];
    }
    for (let i = at; i < at + 4; i++) out[i] /= Math.sqrt(norm) || 1;
  }
  return out;
}

// ---- meshes of unit size: x, y, z, which end of a capsule (1, 0 or -1), normal
function lathe(profile) {  // points [radius, z, end, normal outwards, normal up] turned about z
  const sides = 28, points = [], faces = [];
  for (const [radius, z, end, out, up] of profile) for (let i = 0; i <= sides; i++) {
    const c = Math.cos(2 * Math.PI * i / sides), s = Math.sin(2 * Math.PI * i / sides);
    points.push(radius * c, radius * s, z, end, out * c, out * s, up);
  }
  for (let row = 0; row + 1 < profile.length; row++) for (let i = 0; i < sides; i++) {
    const a = row * (sides + 1) + i, b = a + sides + 1;
    faces.push(a, b, a + 1, a + 1, b, b + 1);
  }
  return {points, faces};
}
function square(axis, sign) {
  const points = [], u = (axis + 1) % 3, v = (axis + 2) % 3;
  for (const [a, b] of [[-1, -1], [1, -1], [1, 1], [-1, 1]]) {
    const place = [0, 0, 0], normal = [0, 0, 0];
    place[axis] = normal[axis] = sign; place[u] = a * sign; place[v] = b;
    points.push(...place, 0, ...normal);
  }
  return points;
}
const half = end => Array.from({length: 9}, (_, i) => {
  const angle = Math.PI / 2 * (end > 0 ? i / 8 : 1 + i / 8), c = Math.cos(angle), s = Math.sin(angle);
  return [s, c, end, s, c];
});
const sides = [0, 1, 2].flatMap(axis => [...square(axis, 1), ...square(axis, -1)]);
const MESHES = {
  round: lathe([...half(1), ...half(-1)]),
  cylinder: lathe([[0, 1, 0, 0, 1], [1, 1, 0, 0, 1], [1, 1, 0, 1, 0], [1, -1, 0, 1, 0], [1, -1, 0, 0, -1], [0, -1, 0, 0, -1]]),
  box: {points: sides, faces: [0, 1, 2, 3, 4, 5].flatMap(k => [0, 1, 2, 0, 2, 3].map(i => 4 * k + i))},
  plane: {points: square(2, 1).map((x, i) => i % 7 === 2 ? 0 : x), faces: [0, 1, 2, 0, 2, 3]},
};

// ---- shaders
const VERTEX = `#version 300 es
in vec3 corner; in float tip; in vec3 normal;
in vec3 position; in vec4 turn; in vec3 size; in float end; in vec4 rgba;
uniform vec3 eye, right, up, ahead, sun; uniform vec4 lens; uniform float ground; uniform int part;
out vec3 n, place; out vec2 local; out vec4 color;
vec3 rotate(vec3 v) { return v + 2. * cross(turn.yzw, cross(turn.yzw, v) + turn.x * v); }
void main() {
  vec3 own = corner * size + vec3(0, 0, tip * end);
  local = own.xy; color = rgba;
  place = position + rotate(own);
  n = rotate(normal / size);
  if (part == 2) place += sun * max(place.z - ground, 0.) / -sun.z;  // the shadow: along the sun's rays to the ground
  vec3 from = place - eye;
  float depth = dot(from, ahead);
  gl_Position = vec4(dot(from, right) * lens.x, dot(from, up) * lens.y, depth * lens.z + lens.w, depth);
}`;
const FRAGMENT = `#version 300 es
precision highp float; precision highp int;
in vec3 n, place; in vec2 local; in vec4 color;
uniform vec3 eye, sun, light, squares[2]; uniform float side; uniform int part;
out vec4 result;
float checker(vec2 p) {  // averaged over the pixel, so that far squares do not flicker
  vec2 w = fwidth(p) + 1e-4;
  vec2 i = 2. * (abs(fract((p - .5 * w) * .5) - .5) - abs(fract((p + .5 * w) * .5) - .5)) / w;
  return .5 - .5 * i.x * i.y;
}
void main() {
  if (part == 2) { result = vec4(0, 0, 0, .22); return; }
  vec3 m = normalize(n);
  vec4 base = part == 1 ? vec4(mix(squares[0], squares[1], checker(local / side)), 1) : color;
  float shine = light.x + light.y * max(dot(m, normalize(eye - place)), 0.) + light.z * max(dot(m, -sun), 0.);
  result = vec4(base.rgb * shine, base.a);
}`;
const FIELDS = {corner: [3, 0], tip: [1, 3], normal: [3, 4]};  // length and offset in a mesh's 7 numbers
const COPIES = {position: [3, 0], turn: [4, 3], size: [3, 7], end: [1, 10], rgba: [4, 11]};  // in a geom's 15
const BODY = 0, FLOOR = 1, SHADOW = 2;

function fit(canvas, width, height) {  // setting a size, even the same, would make its pixels anew
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
}
function painter() {  // draws a panel into a hidden canvas; null without WebGL 2
  // Without multisampling, which lets the sides of two walls glint between their tops; twice the pixels smooth instead.
  const canvas = document.createElement("canvas"), gl = canvas.getContext("webgl2", {stencil: true, alpha: false, antialias: false});
  if (!gl) return null;
  const program = gl.createProgram();
  for (const [type, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(type);
    gl.shaderSource(shader, source); gl.compileShader(shader); gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
  gl.useProgram(program);
  const uniform = name => gl.getUniformLocation(program, name);
  const copies = gl.createBuffer(), meshes = {};
  const fields = (table, numbers, start, divisor) => {
    for (const [name, [length, offset]] of Object.entries(table)) {
      const at = gl.getAttribLocation(program, name);
      gl.enableVertexAttribArray(at);
      gl.vertexAttribPointer(at, length, gl.FLOAT, false, 4 * numbers, 4 * (start * numbers + offset));
      gl.vertexAttribDivisor(at, divisor);
    }
  };
  for (const [name, mesh] of Object.entries(MESHES)) {
    const array = gl.createVertexArray(), count = mesh.faces.length;
    gl.bindVertexArray(array);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(mesh.points), gl.STATIC_DRAW);
    fields(FIELDS, 7, 0, 0);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, new Uint16Array(mesh.faces), gl.STATIC_DRAW);
    meshes[name] = {array, count};
  }
  const sun = unit(look.sun), floor = geoms.findIndex(geom => geom.mesh === "plane");
  gl.uniform3fv(uniform("sun"), sun);
  gl.uniform3fv(uniform("light"), look.light);
  gl.uniform3fv(uniform("squares"), look.floor.flat());
  gl.uniform1f(uniform("side"), look.square);
  gl.uniform1f(uniform("ground"), floor < 0 ? 0 : standing[7 * floor + 2]);
  gl.clearColor(...look.sky, 1);
  gl.enable(gl.DEPTH_TEST); gl.enable(gl.CULL_FACE);
  gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
  gl.polygonOffset(-1, -1);
  gl.stencilFunc(gl.EQUAL, 0, 255); gl.stencilOp(gl.KEEP, gl.KEEP, gl.INCR);  // where two shadows fall, one is drawn
  const names = Object.keys(MESHES);

  return (width, height, camera, places) => {
    fit(canvas, width, height);
    gl.viewport(0, 0, width, height);
    gl.depthMask(true);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT | gl.STENCIL_BUFFER_BIT);
    const near = .02 * camera.distance, far = 100 + 20 * camera.distance, zoom = 1 / Math.tan(view.fovy / 2);
    for (const name of ["eye", "right", "up", "ahead"]) gl.uniform3fv(uniform(name), camera[name]);
    gl.uniform4f(uniform("lens"), zoom * height / width, zoom, (far + near) / (far - near), -2 * far * near / (far - near));
    // Solid geoms mesh by mesh, then those one can see through, the farthest first.
    const place = i => i < fixed ? standing.subarray(7 * i, 7 * i + 7) : places.subarray(7 * (i - fixed), 7 * (i - fixed) + 7);
    const depth = i => dot(camera.ahead, place(i));
    const solid = i => geoms[i].rgba[3] >= 1;
    const order = geoms.map((_, i) => i).sort((a, b) => solid(b) - solid(a) ||
      (solid(a) ? names.indexOf(geoms[a].mesh) - names.indexOf(geoms[b].mesh) : depth(b) - depth(a)));
    const rows = new Float32Array(15 * order.length);
    order.forEach((i, k) => rows.set([...place(i), ...geoms[i].size, geoms[i].end, ...geoms[i].rgba], 15 * k));
    gl.bindBuffer(gl.ARRAY_BUFFER, copies);
    gl.bufferData(gl.ARRAY_BUFFER, rows, gl.DYNAMIC_DRAW);
    const draw = (part, chosen) => {
      gl.uniform1i(uniform("part"), part);
      for (let k = 0; k < order.length;) {
        const mesh = geoms[order[k]].mesh;
        let stop = k;
        while (stop < order.length && geoms[order[stop]].mesh === mesh && solid(order[stop]) === solid(order[k])) stop++;
        if (chosen(mesh, solid(order[k]))) {
          gl.bindVertexArray(meshes[mesh].array);
          gl.bindBuffer(gl.ARRAY_BUFFER, copies);
          fields(COPIES, 15, k, 1);
          gl.drawElementsInstanced(gl.TRIANGLES, meshes[mesh].count, gl.UNSIGNED_SHORT, 0, stop - k);
        }
        k = stop;
      }
    };
    draw(FLOOR, mesh => mesh === "plane");
    gl.enable(gl.BLEND); gl.depthMask(false);
    if (floor >= 0 && camera.eye[2] > standing[7 * floor + 2]) {
      gl.enable(gl.STENCIL_TEST); gl.enable(gl.POLYGON_OFFSET_FILL); gl.disable(gl.CULL_FACE);
      draw(SHADOW, (mesh, solid) => mesh !== "plane" && solid);
      gl.disable(gl.STENCIL_TEST); gl.disable(gl.POLYGON_OFFSET_FILL); gl.enable(gl.CULL_FACE);
    }
    gl.disable(gl.BLEND); gl.depthMask(true);
    draw(BODY, (mesh, solid) => mesh !== "plane" && solid);
    gl.enable(gl.BLEND); gl.depthMask(false);
    draw(BODY, (mesh, solid) => mesh !== "plane" && !solid);
    gl.disable(gl.BLEND);
    return canvas;
  };
}

// ---- the camera, shared by all panels: each turns it by its own direction to the goal
let orbit;
function resetView() { orbit = {azimuth: view.azimuth, elevation: view.elevation, distance: view.distance, pan: [0, 0, 0]}; changed(); }
function axes(angle) {  // of a camera turned by this angle
  const c = Math.cos(orbit.elevation), s = Math.sin(orbit.elevation);
  const ahead = [c * Math.cos(angle), c * Math.sin(angle), s], right = [Math.sin(angle), -Math.cos(angle), 0];
  return {ahead, right, up: cross(right, ahead)};
}
function fromAbove(aspect) {  // the whole ground, as on a map: x down, y to the right
  const [low, high, left, right] = ground.extent, half = Math.max(high - low, (right - left) / aspect) / 2;
  const distance = 1.05 * half / Math.tan(view.fovy / 2), ahead = [0, 0, -1];
  return {ahead, right: [0, 1, 0], up: [-1, 0, 0], distance, eye: add([(low + high) / 2, (left + right) / 2, 0], ahead, -distance)};
}
function cameraOf(panel, focus, aspect) {  // focus [3]: what it looks at; a panel's rest: what it looked at while it followed
  if (find("top").checked) return fromAbove(aspect);
  const seen = axes(orbit.azimuth + panel.turn);
  if (view.follows && find("follow").checked || !panel.rest) panel.rest = Array.from(focus);
  const target = add(panel.rest, round(Math.cos(panel.turn), Math.sin(panel.turn), orbit.pan));
  return {...seen, distance: orbit.distance, eye: add(target, seen.ahead, -orbit.distance)};
}
function pan(dx, dy, height) {  // pixels; in the frame that every panel turns by its own angle
  const {right, up} = axes(orbit.azimuth), meters = 2 * orbit.distance * Math.tan(view.fovy / 2) / height;
  orbit.pan = add(add(orbit.pan, right, -dx * meters), up, dy * meters);
}
const zoomBy = factor => orbit.distance = Math.min(Math.max(orbit.distance * factor, .1 * view.distance), 12 * view.distance);

function steer(canvas) {
  const fingers = new Map();
  canvas.addEventListener("pointerdown", event => { canvas.setPointerCapture(event.pointerId); fingers.set(event.pointerId, [event.clientX, event.clientY]); });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, event => fingers.delete(event.pointerId));
  canvas.addEventListener("pointermove", event => {
    const before = fingers.get(event.pointerId);
    if (!before || find("top").checked) return;
    const now = [event.clientX, event.clientY], [dx, dy] = [now[0] - before[0], now[1] - before[1]];
    const other = [...fingers].find(([id]) => id !== event.pointerId);
    if (other) {  // each finger moves the middle by half its way
      const apart = p => Math.hypot(p[0] - other[1][0], p[1] - other[1][1]) || 1;
      zoomBy(apart(before) / apart(now));
      pan(dx / 2, dy / 2, canvas.clientHeight);
    } else if (event.buttons & 2 || event.shiftKey) pan(dx, dy, canvas.clientHeight);
    else {
      orbit.azimuth -= dx * .008;
      orbit.elevation = Math.min(Math.max(orbit.elevation - dy * .008, -1.55), 1.55);
    }
    fingers.set(event.pointerId, now);
    changed();
  });
  canvas.addEventListener("wheel", event => { event.preventDefault(); zoomBy(Math.exp(event.deltaY * .001)); changed(); }, {passive: false});
  canvas.addEventListener("contextmenu", event => event.preventDefault());
}

const sharp = 2;  // pixels of a canvas to one of the page
function drawScene(canvas, paint, panel, focus, places) {  // places [moving * 7] of the geoms that move
  const [width, height] = [Math.round(canvas.clientWidth * sharp), Math.round(canvas.clientHeight * sharp)];
  if (!width || !height) return;
  fit(canvas, width, height);
  canvas.getContext("2d").drawImage(paint(width, height, cameraOf(panel, focus, width / height), places), 0, 0);
}

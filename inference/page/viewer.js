"use strict";
// The page of one fused pair. NiiVue draws; what is here unpacks the volumes, colours and blends
// them, and shows the values under the crosshair. `build.py` writes what is read from the elements
// #about (JSON) and #data-* (base64 of gzip).

const about = JSON.parse(document.getElementById("about").textContent);
const element = (id) => document.getElementById(id);
const [nx, ny, nz] = about.shape;
const voxels = nx * ny * nz;

// Unpacking ----------------------------------------------------------------------------------------

async function unpacked(id) {
  const text = atob(element(id).textContent.trim());
  element(id).remove(); // half of the page's memory
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Levels were written as differences along x, zigzag (0, -1, 1, -2 ...), low bytes before high ones.
async function levels(id) {
  const bytes = await unpacked(id);
  const values = new Uint16Array(voxels);
  let before = 0;
  for (let i = 0; i < voxels; i++) {
    if (i % nx === 0) before = 0;
    const code = bytes[i] | (bytes[voxels + i] << 8);
    before += (code >>> 1) ^ -(code & 1);
    values[i] = before;
  }
  return values;
}

// A NIfTI-1 file in memory: little endian, 352 bytes of header.
function nifti(datatype, bits, layer, bytes) {
  const buffer = new ArrayBuffer(352 + (voxels * bits) / 8);
  const view = new DataView(buffer);
  view.setInt32(0, 348, true);
  [3, nx, ny, nz, 1, 1, 1, 1].forEach((n, i) => view.setInt16(40 + 2 * i, n, true));
  view.setInt16(70, datatype, true);
  view.setInt16(72, bits, true);
  [1, ...about.voxel_mm].forEach((side, i) => view.setFloat32(76 + 4 * i, side, true));
  view.setFloat32(108, 352, true);
  view.setFloat32(112, layer ? layer.step : 1, true);
  view.setFloat32(116, layer ? layer.offset : 0, true);
  view.setUint8(123, 2); // mm
  view.setInt16(254, 2, true); // sform: aligned
  about.affine.slice(0, 3).flat().forEach((n, i) => view.setFloat32(280 + 4 * i, n, true));
  [0x6e, 0x2b, 0x31, 0].forEach((c, i) => view.setUint8(344 + i, c)); // n+1
  new Uint8Array(buffer).set(bytes, 352);
  return buffer;
}

// State --------------------------------------------------------------------------------------------

const NAMES = ["mri", "pet", "fused", "colour"];
const TITLES = { mri: "MRI", pet: "PET", fused: "fused", colour: "colour" };
const layers = { mri: about.mri, pet: about.pet, fused: about.fused[0] };
const data = {}; // the levels of mri, pet, fused
const images = {}; // NiiVue's
let steps = []; // the levels of every fused volume
let tables = {}; // colours of every uptake at every grey
let shown = about.first, previous = "mri", overlay = 0, map = about.maps[0].name;
let where = null; // voxel under the crosshair
let nv = null;

const value = (name, i) => data[name][i] * layers[name].step + layers[name].offset;
// The level of a value on a display of 256, for every level of the layer.
function display(layer) {
  const [low, high] = layer.window;
  const table = new Uint8Array(65536);
  for (let level = 0; level < table.length; level++) {
    const part = (level * layer.step + layer.offset - low) / (high - low || 1);
    table[level] = Math.round(255 * Math.min(1, Math.max(0, part)));
  }
  return table;
}

function paint() {
  const grey = display(layers.fused), uptake = display(layers.pet), table = tables[map];
  const rgb = images.colour.img;
  const width = rgb.length / voxels; // NiiVue may keep a fourth channel
  for (let i = 0; i < voxels; i++) {
    const entry = 3 * (256 * uptake[data.pet[i]] + grey[data.fused[i]]);
    for (let c = 0; c < 3; c++) rgb[width * i + c] = table[entry + c];
  }
}

// Fused volume number t; between two of them their blend.
function blend(t) {
  const first = Math.min(Math.floor(t), steps.length - 1);
  const second = Math.min(first + 1, steps.length - 1);
  const part = t - first, a = steps[first], b = steps[second];
  layers.fused = about.fused[first];
  for (let i = 0; i < voxels; i++) data.fused[i] = Math.round((1 - part) * a[i] + part * b[i]);
  images.fused.img.set(data.fused);
}

// Drawing ------------------------------------------------------------------------------------------

function draw() {
  const at = nv.volumes.length ? nv.scene.crosshairPos.slice() : null;
  const over = overlay > 0 && (shown === "mri" || shown === "fused");
  const looks = { mri: "gray", fused: "gray", pet: over ? map + " clear" : map };
  for (const [name, look] of Object.entries(looks)) {
    images[name].colormap = look; // first: it sets the window, too
    [images[name].cal_min, images[name].cal_max] = layers[name].window;
    images[name].opacity = name === "pet" && over ? overlay : 1;
  }
  const volumes = over ? [images[shown], images.pet] : [images[shown]];
  nv.volumes = volumes;
  nv.back = volumes[0];
  nv.overlays = volumes.slice(1);
  nv.updateGLVolume();
  if (at) nv.scene.crosshairPos = at;
  nv.drawScene();
  for (const name of NAMES) element("show-" + name).checked = name === shown;
  const layer = layers[shown];
  element("window").hidden = !layer;
  if (layer) {
    [element("low").value, element("high").value] = layer.window.map((v) => Number(v.toPrecision(5)));
    element("window-of").textContent = TITLES[shown] + (layer.unit ? ", " + layer.unit : "");
  }
  tell();
}

function show(name) {
  if (name !== shown) [previous, shown] = [shown, name];
  draw();
}

// Values -------------------------------------------------------------------------------------------

const digits = (number) => String(Number(number.toPrecision(6)));

function locate(mm) {
  const inverse = about.inverse;
  const at = [0, 1, 2].map((r) => Math.round(
    inverse[r][0] * mm[0] + inverse[r][1] * mm[1] + inverse[r][2] * mm[2] + inverse[r][3]));
  where = at.map((n, axis) => Math.min(about.shape[axis] - 1, Math.max(0, n)));
  tell();
}

function tell() {
  if (!where) return;
  const [i, j, k] = where, index = i + nx * (j + ny * k);
  const mm = [0, 1, 2].map((r) => about.affine[r][0] * i + about.affine[r][1] * j +
    about.affine[r][2] * k + about.affine[r][3]);
  element("mm").textContent = mm.map((n) => n.toFixed(2)).join(", ") + " mm";
  element("voxel").textContent = where.map((n, axis) => n + about.start[axis]).join(", ");
  for (const name of ["mri", "pet", "fused"]) {
    element("value-" + name).textContent = digits(value(name, index));
  }
}

// Controls -----------------------------------------------------------------------------------------

function fill(select, names) {
  for (const name of names) {
    const option = document.createElement("option");
    option.textContent = option.value = name;
    select.append(option);
  }
}

function choose(t) {
  blend(t);
  paint();
  draw();
}

const VIEWS = { all: 3, axial: 0, coronal: 1, sagittal: 2, "3-D": 4 };

function controls() {
  for (const name of NAMES) element("show-" + name).addEventListener("change", () => show(name));
  element("overlay").addEventListener("input", (event) => {
    overlay = Number(event.target.value);
    if (overlay > 0 && shown !== "mri" && shown !== "fused") show("mri");
    draw();
  });
  fill(element("map"), about.maps.map((entry) => entry.name));
  element("map").addEventListener("change", (event) => {
    map = event.target.value;
    paint();
    draw();
  });
  for (const id of ["low", "high"]) element(id).addEventListener("change", () => {
    const wanted = [Number(element("low").value), Number(element("high").value)];
    if (wanted[1] > wanted[0]) layers[shown].window = wanted;
    paint();
    draw();
  });
  element("reset").addEventListener("click", () => {
    layers[shown].window = layers[shown].full.slice();
    paint();
    draw();
  });
  fill(element("view"), Object.keys(VIEWS));
  element("view").addEventListener("change", (event) => {
    nv.setSliceType(VIEWS[event.target.value]);
  });
  element("balance-row").hidden = !about.balances;
  element("method-row").hidden = Boolean(about.balances) || about.fused.length < 2;
  if (about.balances) {
    const slider = element("balance"), last = about.balances.length - 1;
    slider.value = about.balance;
    const place = (share) => {
      const above = about.balances.findIndex((there) => there >= share);
      if (above <= 0) return Math.max(above, 0);
      const low = about.balances[above - 1];
      return Math.min(last, above - 1 + (share - low) / (about.balances[above] - low));
    };
    const say = () => { element("balance-value").textContent = Number(slider.value).toFixed(2); };
    slider.addEventListener("input", () => {
      say();
      choose(place(Number(slider.value)));
    });
    say();
    blend(place(about.balance));
  } else {
    fill(element("method"), about.fused.map((layer) => layer.name));
    element("method").addEventListener("change", (event) => choose(event.target.selectedIndex));
  }
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input[type=number], select") || event.ctrlKey || event.metaKey) return;
    if (NAMES["1234".indexOf(event.key)]) show(NAMES["1234".indexOf(event.key)]);
    if (event.key === "x") show(previous);
  });
}

function texts() {
  element("title").textContent = about.title;
  for (const name of ["mri", "pet", "fused"]) element("unit-" + name).textContent = layers[name].unit;
  for (const note of about.notes) {
    const line = document.createElement("li");
    line.textContent = note;
    element("notes").append(line);
  }
  for (const [number, row] of about.scores.entries()) {
    const line = document.createElement("tr");
    for (const cell of row) {
      const box = document.createElement(number ? "td" : "th");
      box.textContent = cell;
      line.append(box);
    }
    element("scores").append(line);
  }
}

// Start --------------------------------------------------------------------------------------------

async function start() {
  texts();
  const code = document.createElement("script");
  code.textContent = new TextDecoder().decode(await unpacked("data-niivue"));
  document.head.append(code);
  for (let n = 0; n < about.maps.length; n++) {
    tables[about.maps[n].name] = await unpacked("data-map-" + n);
  }
  data.mri = await levels("data-mri");
  data.pet = await levels("data-pet");
  for (let n = 0; n < about.fused.length; n++) steps.push(await levels("data-fused-" + n));
  data.fused = steps[0].slice();

  const { Niivue, NVImage, SLICE_TYPE } = window.niivue;
  nv = new Niivue({
    isRadiologicalConvention: true, sagittalNoseLeft: true, multiplanarShowRender: 1,
    multiplanarLayout: 2, multiplanarForceRender: true, dragMode: 3, dragAndDropEnabled: false,
    isForceMouseClickToVoxelCenters: true, show3Dcrosshair: true, viewModeHotKey: "",
    clipPlaneHotKey: "KeyC", crosshairColor: [0.3, 1, 0.5, 0.7], fontColor: [1, 1, 1, 1],
    crosshairWidthUnit: "mm", crosshairWidth: 0.6, crosshairGap: 8, logLevel: "error", tileMargin: 4, showAllOrientationMarkers: true,
  });
  nv.onLocationChange = (location) => locate(location.mm);
  await nv.attachToCanvas(element("picture"), false);
  for (const entry of about.maps) {
    const channels = [0, 1, 2].map((c) => entry.colours.map((colour) => colour[c]));
    const places = entry.colours.map((_, i) => i);
    // Little uptake covers nothing: it reaches beyond the head.
    const clear = places.map((i) => Math.min(255, Math.max(0, 3 * (i - 40))));
    const [R, G, B] = channels;
    nv.addColormap(entry.name, { R, G, B, A: places.map(() => 255), I: places });
    nv.addColormap(entry.name + " clear", { R, G, B, A: clear, I: places });
  }
  for (const name of ["mri", "pet", "fused"]) {
    layers[name].full = layers[name].window.slice();
    const bytes = new Uint8Array(data[name].buffer);
    const [low, high] = layers[name].window;
    images[name] = await NVImage.new(
      nifti(512, 16, layers[name], bytes), name + ".nii", "gray", 1, null, low, high);
  }
  for (const layer of about.fused) layer.full = layer.window.slice();
  images.colour = await NVImage.new(nifti(128, 24, null, new Uint8Array(0)), "colour.nii");
  controls();
  paint();
  nv.setSliceType(SLICE_TYPE.MULTIPLANAR);
  draw();
  nv.scene.crosshairPos = nv.mm2frac(about.centre);
  nv.drawScene();
  locate(about.centre);
  document.body.dataset.ready = String(Math.round(performance.now())); // ms to the first picture
}

start().catch((error) => {
  element("error").textContent = "This page needs a browser with WebGL 2: " + error.message;
  element("error").hidden = false;
});

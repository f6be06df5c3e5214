// Draws layers on a canvas: lines at any zoom, and cells as a small image that is stretched without smoothing.

const HEAT = ["#a50026", "#f46d43", "#fee090", "#e0f3f8", "#74add1", "#313695"].map(rgb); // low to high
const TINT = rgb("#00a88f");
const VEIL = rgb("#20242a");
const LINE = "#00a88f";
const LEAST_STEP = 7; // CSS pixels between lines, below which a grid is left out

function rgb(hex) {
  return [1, 3, 5].map((at) => Number.parseInt(hex.slice(at, at + 2), 16));
}

function heat(part) {
  const at = Math.min(part, 0.9999) * (HEAT.length - 1);
  const [low, high] = [HEAT[Math.floor(at)], HEAT[Math.floor(at) + 1]];
  return low.map((value, index) => value + (high[index] - value) * (at % 1));
}

// What an overlay's data say, made ready to be drawn.
export async function cells(data) {
  if (!data.image) return data;
  const image = new Image();
  image.src = data.image;
  await image.decode();
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width: image.naturalWidth, height: image.naturalHeight });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  const raw = Uint8Array.from({ length: canvas.width * canvas.height }, (_, index) => pixels.data[4 * index]);
  const colour = {
    heat: (value) => (value ? [...heat((value - 1) / 254), 255] : [0, 0, 0, 0]),
    mask: (value) => [...TINT, value ? 255 : 0],
    kept: (value) => [...VEIL, value ? 0 : 255],
  }[data.kind];
  if (colour) raw.forEach((value, index) => pixels.data.set(colour(value), 4 * index));
  context.putImageData(pixels, 0, 0);
  const [left, top, width, height] = data.box;
  const valueAt = ({ x, y }) => {
    const col = Math.floor(((x - left) / width) * canvas.width);
    const row = Math.floor(((y - top) / height) * canvas.height);
    if (col < 0 || row < 0 || col >= canvas.width || row >= canvas.height) return [];
    const value = raw[row * canvas.width + col];
    return value ? [`${data.unit} ${(data.low + ((value - 1) / 254) * (data.high - data.low)).toFixed(3)}`] : [];
  };
  return { ...data, canvas, valueAt: data.kind === "heat" ? valueAt : undefined };
}

export function draw(context, layer, frame, size, strength) {
  if (layer.kind === "grid") return drawGrid(context, layer, frame, size);
  if (layer.kind === "lines") return drawLines(context, layer, frame, size);
  if (layer.kind === "shapes") return drawShapes(context, layer, frame, strength);
  const [x, y, width, height] = layer.box;
  context.save();
  context.globalAlpha = strength;
  context.imageSmoothingEnabled = false;
  const to = [frame.x + x * frame.scale, frame.y + y * frame.scale, width * frame.scale, height * frame.scale];
  context.drawImage(layer.canvas, ...to);
  context.restore();
}

// The edge of the scene's first picture, which shows its place on its reference.
export function outline(context, { width, height }, { x, y, scale }) {
  for (const [colour, thickness] of [["rgb(255 255 255 / 0.8)", 3.5], ["#1d5fa6", 1.5]]) {
    context.strokeStyle = colour;
    context.lineWidth = thickness;
    context.strokeRect(x, y, width * scale, height * scale);
  }
}

function drawGrid(context, { xy, side, step, cols, rows }, frame, size) {
  if (step * frame.scale < LEAST_STEP) return;
  const ends = [xy[0] + (cols - 1) * step + side, xy[1] + (rows - 1) * step + side];
  const [across, down] = [cols, rows].map((count, axis) => {
    const found = [];
    const origin = axis ? frame.y : frame.x;
    for (let n = 0; n < count; n++)
      for (const edge of side === step ? [0] : [0, side]) {
        const at = origin + (xy[axis] + n * step + edge) * frame.scale;
        if (at >= -1 && at <= size[axis] + 1) found.push(at);
      }
    found.push(origin + ends[axis] * frame.scale);
    return found;
  });
  const box = [frame.x + xy[0] * frame.scale, frame.y + xy[1] * frame.scale];
  box.push(frame.x + ends[0] * frame.scale, frame.y + ends[1] * frame.scale);
  stroke(context, across, down, box, [["rgb(255 255 255 / 0.55)", 3], ["rgb(20 24 28 / 0.75)", 1]]);
}

function drawLines(context, { rows, cols, box }, frame, size) {
  const place = (origin, values, axis) =>
    values.map((value) => origin + value * frame.scale).filter((at) => at >= -2 && at <= size[axis] + 2);
  const [x, y, width, height] = box.map((value) => value * frame.scale);
  const ends = [frame.x + x, frame.y + y, frame.x + x + width, frame.y + y + height];
  stroke(context, place(frame.x, cols, 0), place(frame.y, rows, 1), ends, [["rgb(255 255 255 / 0.7)", 3.5], [LINE, 1.75]]);
}

// Filled, the first ones, what was made, more than the others.
function drawShapes(context, { shapes }, { x, y, scale }, strength) {
  const first = shapes[0].name;
  context.save();
  for (const { name, rings } of shapes) {
    context.beginPath();
    for (const ring of rings) {
      ring.forEach(([left, top], index) => context[index ? "lineTo" : "moveTo"](x + left * scale, y + top * scale));
      context.closePath();
    }
    context.globalAlpha = strength * (name === first ? 0.6 : 0.25);
    context.fillStyle = LINE;
    context.fill("evenodd");
    context.globalAlpha = 1;
    context.lineWidth = name === first ? 1.75 : 0.75;
    context.strokeStyle = LINE;
    context.stroke();
  }
  context.restore();
}

function stroke(context, across, down, [left, top, right, bottom], pens) {
  for (const [colour, width] of pens) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.beginPath();
    for (const x of across) {
      context.moveTo(Math.round(x) + 0.5, top);
      context.lineTo(Math.round(x) + 0.5, bottom);
    }
    for (const y of down) {
      context.moveTo(left, Math.round(y) + 0.5);
      context.lineTo(right, Math.round(y) + 0.5);
    }
    context.stroke();
  }
}

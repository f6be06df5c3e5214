// The scale bar, and the line that says where the pointer is and how large things are seen.

const STEPS = [1, 2, 5];

// The longest round length that is at most so many CSS pixels: [pixels of the plane, its name].
export function roundLength(scale, zoom, most) {
  const reach = (most / zoom) * scale.size; // in the unit
  const power = 10 ** Math.floor(Math.log10(reach));
  const value = Math.max(...STEPS.filter((step) => step * power <= reach * (1 + 1e-9))) * power;
  return [value / scale.size, named(value, scale.unit)];
}

export function named(value, unit) {
  const larger = { um: "mm", m: "km" }[unit];
  const [number, name] = larger && value >= 1000 ? [value / 1000, larger] : [value, unit];
  return `${Number(number.toPrecision(3)).toLocaleString("en", { maximumFractionDigits: 6 })} ${name.replace("um", "µm")}`;
}

export class Readout {
  constructor(scene, panes, layers) {
    Object.assign(this, { scene, panes, layers, pointer: null });
    this.bar = document.querySelector(".scalebar");
    this.line = document.querySelector(".readout");
    panes.addEventListener("view", () => this.#update());
    panes.addEventListener("draw", () => this.#update());
    panes.stage.addEventListener("pointermove", (event) => {
      this.pointer = [event.clientX, event.clientY];
      this.#update();
    });
    panes.stage.addEventListener("pointerleave", () => {
      this.pointer = null;
      this.#update();
    });
  }

  #update() {
    if (!this.panes.placed) return;
    const { scale } = this.scene;
    const { zoom } = this.panes.view;
    const room = Math.min(180, this.panes.stage.clientWidth * 0.32);
    const [pixels, name] = roundLength(scale, zoom, room);
    this.bar.style.setProperty("--length", `${pixels * zoom}px`);
    this.bar.firstElementChild.textContent = name;
    const said = [];
    const place = this.pointer && this.panes.placeUnder(...this.pointer);
    if (place) {
      said.push(`${Math.floor(place.x)}, ${Math.floor(place.y)} px`);
      said.push(...this.layers.valuesAt(place));
    }
    if (scale.unit === "um") said.push(`${Number(((10 / scale.size) * zoom).toPrecision(3))}×`);
    else if (scale.unit === "m") said.push(`${named(scale.size / zoom, "m")}/px`);
    said.push(`${Number((100 * zoom).toPrecision(3))} %`);
    this.line.textContent = said.join("  ·  ");
  }
}

// What lies over the pictures: a list to choose from, and the drawing of it on the panes' canvases.
import { element } from "./dom.js";
import { cells, draw, outline } from "./drawing.js";

export class Layers extends EventTarget {
  constructor(scene, panes) {
    super();
    Object.assign(this, { scene, panes, loaded: new Map(), rows: new Map() });
    this.strength = 0.6;
    this.framed = scene.pictures.some((one) => one.role === "reference"); // shows where the image lies on it
    this.list();
    panes.addEventListener("draw", (event) => this.#draw(event.detail));
  }

  // Keys of what is shown, in the order of the list.
  get on() {
    return this.scene.overlays.map((one) => one.key).filter((key) => this.rows.get(key).box.checked);
  }

  turnOn(keys) {
    for (const key of keys) if (this.rows.has(key) && !this.rows.get(key).box.checked) this.toggle(key);
  }

  toggle(key) {
    const row = this.rows.get(key);
    if (!row) return;
    row.box.checked = !row.box.checked;
    this.#changed(key);
  }

  // What the layers that are shown say of a place of the plane.
  valuesAt(place) {
    return this.on.flatMap((key) => this.loaded.get(key)?.valueAt?.(place) ?? []);
  }

  list() {
    const section = document.querySelector(".layers");
    section.hidden = !this.scene.overlays.length;
    for (const overlay of this.scene.overlays) {
      const box = element("input", { type: "checkbox" });
      const note = element("small", { class: "legend" });
      const about = element("small", {}, overlay.about);
      const label = element("label", {}, box, element("span", {}, overlay.name, about));
      section.querySelector("ul").append(element("li", { "data-key": overlay.key }, label, note));
      this.rows.set(overlay.key, { box, note, overlay });
      box.addEventListener("change", () => this.#changed(overlay.key));
    }
    section.querySelector(".strength input").addEventListener("input", (event) => {
      this.strength = event.target.value / 100;
      this.panes.redraw();
    });
  }

  async #changed(key) {
    const { box, note, overlay } = this.rows.get(key);
    this.dispatchEvent(new Event("change"));
    if (box.checked && !this.loaded.has(key)) {
      note.textContent = overlay.slow ? "computing, which may take a minute …" : "…";
      try {
        const data = overlay.data ?? (await fetched(`${this.scene.data}overlays/${key}.json`));
        if (data.error) throw new Error(data.error);
        this.loaded.set(key, await cells(data));
        legend(note, data);
      } catch (error) {
        note.textContent = `not to be had: ${error.message}`;
        note.classList.add("failed");
        box.checked = false;
      }
    }
    note.hidden = !box.checked && !note.classList.contains("failed");
    this.panes.redraw();
  }

  #draw(pane) {
    const { canvas } = pane;
    const ratio = devicePixelRatio || 1;
    const { clientWidth, clientHeight } = pane.element;
    if (canvas.width !== Math.round(clientWidth * ratio) || canvas.height !== Math.round(clientHeight * ratio))
      Object.assign(canvas, { width: Math.round(clientWidth * ratio), height: Math.round(clientHeight * ratio) });
    const context = canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    const shown = this.on.map((key) => this.loaded.get(key)).filter(Boolean);
    if (!shown.length && !this.framed) return;
    context.scale(ratio, ratio);
    const frame = this.panes.frame(pane);
    if (this.framed) outline(context, this.scene, frame);
    for (const layer of shown) draw(context, layer, frame, [clientWidth, clientHeight], this.strength);
  }
}

async function fetched(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`the server says ${answer.status}`);
  return answer.json();
}

function legend(note, data) {
  note.replaceChildren();
  if (data.kind === "heat") {
    const ends = [data.low, data.high].map((value) => element("span", {}, value.toFixed(3)));
    note.append(element("span", { class: "ramp" }, ends[0], element("i", {}), ends[1]));
  }
  if (data.legend) note.append(data.legend);
}

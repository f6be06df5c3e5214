// The address keeps the view: #x,y,zoom and after semicolons the mode, the pictures and the layers.
import { say } from "./dom.js";

export class Link {
  constructor(panes, layers) {
    Object.assign(this, { panes, layers, waiting: 0 });
    for (const name of ["view", "pictures"]) panes.addEventListener(name, () => this.#later());
    layers.addEventListener("change", () => this.#later());
  }

  // What the address says: parts that are not there are undefined.
  read() {
    const [place, mode, pictures, layers] = decodeURIComponent(location.hash.slice(1)).split(";");
    const [x, y, zoom] = place.split(",").map(Number.parseFloat);
    return { x, y, zoom, mode, pictures: pictures?.split(","), layers: layers?.split(",").filter(Boolean) ?? [] };
  }

  text() {
    const { x, y, zoom } = this.panes.view;
    const pictures = this.panes.panes.map((pane) => pane.picture.key).join(",");
    return `#${x.toFixed(1)},${y.toFixed(1)},${zoom.toPrecision(4)};${this.panes.mode};${pictures};${this.layers.on.join(",")}`;
  }

  async copy() {
    this.#write();
    try {
      await navigator.clipboard.writeText(location.href);
      say("The link to this view is copied");
    } catch {
      say("The address of this page is the link to this view");
    }
  }

  #later() {
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => this.#write(), 250);
  }

  #write() {
    if (this.panes.placed) history.replaceState(null, "", this.text());
  }
}

// One or two pictures of a scene, moving in step: alone, side by side, or one over the other.
// Places are pixels of the scene's plane; zoom is CSS pixels per pixel of it.
/* global OpenSeadragon */

const ROLES = {
  result: "Result",
  reference: "Reference",
  guide: "Guide",
  level: "Level",
  slide: "Slide",
  embeddings: "Embeddings",
  run: "Run",
};
const MODES = ["one", "side", "slider"];
const CALM = matchMedia("(prefers-reduced-motion: reduce)").matches;

export function title(picture) {
  return `${ROLES[picture.role]}: ${picture.name}`;
}

export class Panes extends EventTarget {
  constructor(stage, scene) {
    super();
    this.stage = stage;
    stage.panes = this; // for tests, and for whoever is curious
    this.scene = scene;
    this.mode = "one";
    this.flipped = false; // whether the second picture covers the first
    this.border = 0.5; // of the slider
    this.placed = false; // whether a picture is there, and where it shall be
    this.wanted = null; // the view to begin with; null: all of the first picture
    this.panes = [...stage.querySelectorAll(".pane")].map((pane, index) => ({
      ...{ element: pane, index, viewer: null, picture: scene.pictures[Math.min(index, scene.pictures.length - 1)] },
      canvas: pane.querySelector("canvas"),
    }));
    this.leader = this.panes[0];
    this.divider = stage.querySelector(".divider");
    this.#offerPictures();
    this.#listenToDivider();
    new ResizeObserver(() => this.#resized()).observe(stage);
  }

  // Begins as a link says, else with all of the first picture, beside its reference if there is one.
  open({ mode, pictures, ...view }) {
    (pictures ?? []).slice(0, 2).forEach((key, index) => this.choose(index, key));
    const beside = this.scene.pictures.some((picture) => picture.role === "reference");
    if (view.zoom > 0) this.wanted = view;
    this.setMode(mode ?? (beside ? (this.stage.clientWidth >= 640 ? "side" : "slider") : "one"));
  }

  get shown() {
    if (this.mode === "one") return [this.panes[this.flipped ? 1 : 0]];
    return this.panes;
  }

  setMode(mode) {
    if (!MODES.includes(mode) || (mode !== "one" && this.scene.pictures.length < 2)) return;
    const before = this.placed && this.view;
    this.mode = mode;
    this.flipped = false;
    this.#lay();
    if (before) this.go(before);
  }

  blink() {
    if (this.scene.pictures.length < 2) return;
    if (this.mode !== "one") this.setMode("one");
    this.flipped = !this.flipped;
    this.#lay();
  }

  // Shows a picture in a pane, by its key.
  choose(index, key) {
    const picture = this.scene.pictures.find((one) => one.key === key);
    const pane = this.panes[index];
    if (!picture || !pane || pane.picture === picture) return;
    pane.picture = picture;
    pane.element.querySelector("select").value = key;
    if (pane.viewer) this.#load(pane);
    this.#changed("pictures");
  }

  get view() {
    const { viewport } = this.leader.viewer;
    const center = viewport.getCenter(true);
    const width = this.scene.width;
    const zoom = (viewport.getZoom(true) * this.leader.element.clientWidth) / width;
    return { x: center.x * width, y: center.y * width, zoom };
  }

  go({ x, y, zoom }, gently = false) {
    if (![x, y, zoom].every(Number.isFinite) || zoom <= 0) return;
    const width = this.scene.width;
    for (const pane of this.panes.filter((one) => one.viewer)) {
      const { viewport } = pane.viewer;
      viewport.zoomTo((zoom * width) / pane.element.clientWidth, null, !gently || CALM);
      viewport.panTo(new OpenSeadragon.Point(x / width, y / width), !gently || CALM);
      viewport.applyConstraints(true);
    }
  }

  zoomBy(factor) {
    this.go({ ...this.view, zoom: this.view.zoom * factor }, true);
  }

  // By a part of what is seen.
  panBy(right, down) {
    const { x, y, zoom } = this.view;
    const { clientWidth, clientHeight } = this.leader.element;
    this.go({ x: x + (right * clientWidth) / zoom, y: y + (down * clientHeight) / zoom, zoom }, true);
  }

  fit(atOnce = false) {
    const { width, height } = this.scene;
    const { clientWidth, clientHeight } = this.leader.element;
    const zoom = 0.96 * Math.min(clientWidth / width, clientHeight / height);
    this.go({ x: width / 2, y: height / 2, zoom }, !atOnce);
  }

  // From a point of the window to the plane, by the pane that is under it.
  placeUnder(clientX, clientY) {
    const pane = this.shown.find((one) => {
      const box = one.element.getBoundingClientRect();
      return clientX >= box.left && clientX < box.right && clientY >= box.top && clientY < box.bottom;
    });
    if (!pane?.viewer) return null;
    const box = pane.element.getBoundingClientRect();
    const { x, y, scale } = this.frame(pane);
    return { x: (clientX - box.left - x) / scale, y: (clientY - box.top - y) / scale };
  }

  // Where the plane lies in a pane: its corner in CSS pixels, and their number per pixel of the plane.
  frame(pane) {
    const bounds = pane.viewer.viewport.getBoundsNoRotate(true);
    const scale = pane.element.clientWidth / bounds.width / this.scene.width;
    return { x: -bounds.x * this.scene.width * scale, y: -bounds.y * this.scene.width * scale, scale };
  }

  redraw() {
    this.panes.filter((pane) => pane.viewer).forEach((pane) => this.#changed("draw", pane));
  }

  // Fetches a picture anew, which has changed.
  reload(key) {
    this.panes.filter((pane) => pane.viewer && pane.picture.key === key).forEach((pane) => this.#load(pane));
  }

  #offerPictures() {
    const several = this.scene.pictures.length > 1;
    document.querySelector(".modes").hidden = !several;
    for (const { element, index, picture } of this.panes) {
      const select = element.querySelector("select");
      select.append(...this.scene.pictures.map((one) => new Option(title(one), one.key)));
      select.value = picture.key;
      select.disabled = !several;
      select.addEventListener("change", () => this.choose(index, select.value));
    }
  }

  #lay() {
    const second = this.panes[1];
    const both = this.mode !== "one" || this.flipped;
    this.stage.dataset.mode = this.mode;
    this.stage.classList.toggle("flipped", this.flipped);
    second.element.hidden = !both && !second.viewer;
    this.divider.hidden = this.mode !== "slider";
    this.stage.style.setProperty("--border", `${100 * this.border}%`);
    for (const button of document.querySelectorAll("[data-mode]"))
      button.setAttribute("aria-pressed", button.dataset.mode === this.mode);
    for (const pane of both ? this.panes : this.panes.slice(0, 1)) pane.viewer ? pane.viewer.forceResize() : this.#start(pane);
    this.#changed("pictures");
  }

  #start(pane) {
    const { width } = this.scene;
    pane.viewer = OpenSeadragon({
      element: pane.element.querySelector(".view"),
      ...{ drawer: "canvas", showNavigationControl: false, keyboardNavEnabled: false },
      ...{ animationTime: CALM ? 0 : 0.4, springStiffness: 10, zoomPerScroll: 1.25, blendTime: 0 },
      ...{ gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true } },
      ...{ visibilityRatio: 0, minZoomLevel: 0.02, maxZoomLevel: Math.max(4, width / 24) },
      ...{ preserveImageSizeOnResize: true, maxImageCacheCount: 400, imageLoaderLimit: 6 },
      ...{ showNavigator: pane.index === 0, navigatorPosition: "BOTTOM_RIGHT", navigatorSizeRatio: 0.16 },
    });
    const { viewer } = pane;
    viewer.innerTracker.keyHandler = null;
    const lead = () => {
      if (this.placed) this.leader = pane;
    };
    ["canvas-press", "canvas-scroll", "canvas-pinch", "canvas-double-click"].forEach((name) => viewer.addHandler(name, lead));
    pane.element.addEventListener("pointerenter", lead);
    viewer.navigator?.addHandler("canvas-press", lead);
    viewer.addHandler("viewport-change", () => {
      if (this.leader !== pane || !this.placed) return;
      this.#inStep(pane);
      this.#changed("view");
    });
    viewer.addHandler("update-viewport", () => this.#changed("draw", pane));
    viewer.addHandler("tile-load-failed", () => this.#changed("failed", pane.picture.name));
    viewer.addOnceHandler("open", () => {
      if (this.placed) this.go(this.view);
      else if (this.wanted) this.go(this.wanted);
      else this.fit(true);
      this.placed = true;
      pane.element.dataset.ready = "yes";
    });
    this.#load(pane);
  }

  #load(pane) {
    const { width, data } = this.scene;
    const { key, box, levels, version, ...picture } = pane.picture;
    const old = pane.viewer.world.getItemCount() ? pane.viewer.world.getItemAt(0) : null;
    const again = version ? `?${version}` : "";
    const tileSource = {
      ...{ width: picture.width, height: picture.height, tileSize: picture.tile_px, tileOverlap: 0 },
      ...{ minLevel: 0, maxLevel: levels - 1 },
      getTileUrl: (level, col, row) => `${data}tiles/${key}/${level}/${col}_${row}.jpg${again}`,
    };
    const place = { x: box[0] / width, y: box[1] / width, width: box[2] / width };
    if (!old) {
      pane.viewer.open({ tileSource, ...place });
      return;
    }
    pane.viewer.addTiledImage({ tileSource, ...place, success: () => pane.viewer.world.removeItem(old) });
  }

  #inStep(pane) {
    const other = this.panes[1 - pane.index];
    if (!other.viewer?.viewport) return;
    const from = pane.viewer.viewport;
    const to = other.viewer.viewport;
    to.zoomTo(from.getZoom(true), null, true);
    to.panTo(from.getCenter(true), true);
  }

  #resized() {
    if (!this.placed) return;
    this.redraw();
    this.#changed("view");
  }

  #listenToDivider() {
    const move = (border) => {
      this.border = Math.min(0.98, Math.max(0.02, border));
      this.stage.style.setProperty("--border", `${100 * this.border}%`);
      this.divider.setAttribute("aria-valuenow", Math.round(100 * this.border));
    };
    this.divider.addEventListener("pointerdown", (event) => {
      this.divider.setPointerCapture(event.pointerId);
      event.preventDefault();
      this.divider.focus();
    });
    this.divider.addEventListener("pointermove", (event) => {
      if (!this.divider.hasPointerCapture(event.pointerId)) return;
      const box = this.stage.getBoundingClientRect();
      move((event.clientX - box.left) / box.width);
    });
    this.divider.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -0.02, ArrowRight: 0.02 }[event.key];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      move(this.border + step);
    });
  }

  #changed(what, detail) {
    this.dispatchEvent(new CustomEvent(what, { detail }));
  }
}

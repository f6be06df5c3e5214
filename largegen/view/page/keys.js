// The keyboard: what each key does, and the list of them.
import { element } from "./dom.js";

export function listenToKeys(actions, panes, layers, scene) {
  const several = scene.pictures.length > 1;
  const keys = [
    [["ArrowLeft"], "", () => panes.panBy(-0.2, 0)],
    [["ArrowRight"], "", () => panes.panBy(0.2, 0)],
    [["ArrowUp"], "", () => panes.panBy(0, -0.2)],
    [["ArrowDown"], "", () => panes.panBy(0, 0.2)],
    [["+", "="], "Zoom in", actions.in],
    [["-", "_"], "Zoom out", actions.out],
    [["0"], "Show all", actions.fit],
    ...(several
      ? [
          [["1"], "One picture", () => panes.setMode("one")],
          [["2"], "Side by side", () => panes.setMode("side")],
          [["3"], "One over the other, with a slider", () => panes.setMode("slider")],
          [["b"], "Blink between the two", actions.blink],
          [["n"], "Next picture on the right, or on top", () => next(panes, scene)],
        ]
      : []),
    ...(scene.overlays.length ? [[["g"], "Tile grid", () => layers.toggle("grid")]] : []),
    [["l"], "Copy a link to this view", actions.link],
    [["i"], "Layers and provenance", actions.panel],
    [["t"], "Light or dark", actions.theme],
    [["f"], "Full screen", fullScreen],
    [["?"], "These keys", actions.help],
  ];
  const list = document.querySelector(".help dl");
  list.append(element("dt", {}, element("kbd", {}, "← ↑ ↓ →")), element("dd", {}, "Move"));
  for (const [names, about] of keys.filter((row) => row[1]))
    list.append(element("dt", {}, element("kbd", {}, names[0].toUpperCase())), element("dd", {}, about));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (event.target.closest("input, select, textarea, .panel, [role=slider]") && event.key.startsWith("Arrow")) return;
    const found = keys.find(([names]) => names.includes(event.key.length === 1 ? event.key.toLowerCase() : event.key));
    if (!found) return;
    event.preventDefault();
    found[2]();
  });
}

function next(panes, scene) {
  const index = scene.pictures.indexOf(panes.panes[1].picture);
  panes.choose(1, scene.pictures[(index + 1) % scene.pictures.length].key);
}

function fullScreen() {
  document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen?.();
}

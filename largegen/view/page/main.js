// The page of a scene: reads what the scene is, and puts its parts together.
import { say } from "./dom.js";
import { showFacts } from "./facts.js";
import { follow } from "./follow.js";
import { listenToKeys } from "./keys.js";
import { Layers } from "./layers.js";
import { Link } from "./link.js";
import { Panes } from "./panes.js";
import { Readout } from "./readout.js";
import { switchTheme } from "./theme.js";

const scene = JSON.parse(document.getElementById("scene").textContent);

function panel(open = !document.body.classList.contains("with-panel")) {
  document.body.classList.toggle("with-panel", open);
  document.querySelector("[data-do=panel]").setAttribute("aria-pressed", open);
}

function show() {
  const panes = new Panes(document.querySelector(".stage"), scene);
  const layers = new Layers(scene, panes);
  const link = new Link(panes, layers);
  new Readout(scene, panes, layers);
  const actions = {
    in: () => panes.zoomBy(1.6),
    out: () => panes.zoomBy(1 / 1.6),
    fit: () => panes.fit(),
    blink: () => panes.blink(),
    link: () => link.copy(),
    theme: () => {
      switchTheme();
      panes.redraw();
    },
    help: () => document.querySelector(".help").showModal(),
    panel: () => panel(),
  };
  for (const button of document.querySelectorAll("[data-do]"))
    button.addEventListener("click", actions[button.dataset.do]);
  for (const button of document.querySelectorAll("[data-mode]"))
    button.addEventListener("click", () => panes.setMode(button.dataset.mode));
  showFacts(scene, panes);
  listenToKeys(actions, panes, layers, scene);
  panes.addEventListener("failed", (event) => say(`${event.detail}: a part of it cannot be read`));
  panes.open(link.read());
  layers.turnOn(link.read().layers);
  addEventListener("hashchange", () => panes.go(link.read()));
  return panes;
}

panel(scene.follow || matchMedia("(min-width: 60rem)").matches);
document.querySelector(".stage").classList.toggle("empty", !scene.pictures.length);
const panes = scene.pictures.length ? show() : null;
if (scene.follow) follow(scene, panes);

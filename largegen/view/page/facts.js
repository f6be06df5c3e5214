// What is known of the pictures, as a readable panel.
import { element } from "./dom.js";
import { title } from "./panes.js";

const OPEN = ["Image", "Made by", "Embeddings"];

export function showFacts(scene, panes) {
  const place = document.querySelector(".facts");
  const blocks = scene.pictures.map((picture) => {
    const groups = picture.facts.map(([name, rows]) =>
      element(
        "details",
        { open: OPEN.includes(name) },
        element("summary", {}, name),
        element("dl", {}, ...rows.flatMap(([key, value]) => [element("dt", {}, key), element("dd", {}, value)])),
      ),
    );
    return element("section", { "data-key": picture.key }, element("h2", {}, title(picture)), ...groups);
  });
  place.append(...blocks);
  const update = () => {
    const shown = panes.shown.map((pane) => pane.picture.key);
    for (const block of blocks) block.hidden = !shown.includes(block.dataset.key);
  };
  panes.addEventListener("pictures", update);
  update();
}

// The figures of each card, asked for one after the other: the server computes them as they are asked for.
import { element } from "./dom.js";
import "./theme.js";

const cards = document.querySelectorAll(".cards li");
for (const [number, card] of cards.entries()) {
  const place = card.querySelector(".figures");
  place.textContent = "…";
  try {
    const answer = await fetch(`${number}/figures.json`);
    const figures = answer.ok ? await answer.json() : [];
    place.replaceChildren(...figures.map(([name, value]) => element("span", {}, element("small", {}, name), value)));
  } catch {
    place.textContent = ""; // the server has been stopped
  }
}

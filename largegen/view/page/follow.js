// A run as it goes: asks the server how far it is, shows that, and fetches the picture anew when it has changed.
import { element, say } from "./dom.js";

const EVERY_MS = 2000;
const STATES = {
  waiting: "Nothing is saved yet; the picture comes with the first save.",
  sampling: "Sampling",
  decoding: "Sampled; now it is decoded and written",
  training: "Training",
  done: "Done",
};

export function follow(scene, panes) {
  const section = document.querySelector(".follow");
  section.hidden = false;
  const bar = element("progress", { max: 1, "aria-label": "Part that is done" });
  const list = element("dl");
  const chart = element("div", { class: "losses" });
  const state = element("p", {}, "…");
  section.append(state, bar, list, chart);
  let version = 0;
  const look = async () => {
    let now;
    try {
      now = await (await fetch("progress.json")).json();
    } catch {
      state.textContent = "The run has ended, and with it this page's server.";
      return say("The run has ended; `largegen view` shows what it has made", true);
    }
    setTimeout(look, EVERY_MS);
    state.textContent = STATES[now.state] ?? now.state;
    bar.hidden = !now.steps;
    bar.value = now.state === "done" ? 1 : (now.windows ? now.windows_done / now.windows : now.step / now.steps) || 0;
    list.replaceChildren(...rows(now).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
    if (now.losses) draw(chart, now.losses);
    if (now.version && now.version !== version) {
      if (!panes) return location.reload();
      if (version) {
        scene.pictures[0].version = now.version;
        panes.reload(scene.pictures[0].key);
      }
      version = now.version;
    }
  };
  look();
}

function rows(now) {
  const of = (done, all) => (all ? `${count(done)} of ${count(all)}` : count(done));
  const found = [];
  if (now.part) found.push(["part", now.part]);
  if (now.step) found.push(["steps", of(now.step, now.steps)]);
  if (now.windows) found.push(["windows", of(now.windows_done, now.windows)]);
  if (now.left_s > 0) found.push(["time left", `about ${duration(now.left_s)}`]);
  for (const [name, curve] of Object.entries(now.losses ?? {}))
    found.push([name.replace("_", " "), curve.at(-1)[1].toPrecision(4)]);
  return found;
}

const count = (number) => number.toLocaleString("en");

function duration(seconds) {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

// The losses against the steps, the first on a scale of powers.
function draw(place, curves) {
  const all = Object.values(curves).flat();
  if (all.length < 2) return;
  const [width, height, low] = [300, 150, 18];
  const steps = all.map(([step]) => step);
  const values = all.map(([, value]) => Math.log(Math.max(value, 1e-12)));
  const ends = (numbers) => [Math.min(...numbers), Math.max(...numbers)];
  const [[first, last], [least, most]] = [ends(steps), ends(values)];
  const at = ([step, value]) => {
    const x = ((step - first) / Math.max(last - first, 1)) * (width - 4) + 2;
    const y = low + (1 - (Math.log(Math.max(value, 1e-12)) - least) / Math.max(most - least, 1e-9)) * (height - 2 * low);
    return `${x.toFixed(1)},${y.toFixed(1)}`;
  };
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Losses by step" });
  for (const [name, curve] of Object.entries(curves))
    svg.append(drawn("polyline", { class: name, points: curve.map(at).join(" ") }));
  const text = (x, y, anchor, said) => {
    const made = drawn("text", { x, y, "text-anchor": anchor });
    made.textContent = said;
    svg.append(made);
  };
  text(2, 11, "start", Math.exp(most).toPrecision(3));
  text(2, height - 4, "start", `${Math.exp(least).toPrecision(3)}, step ${count(first)}`);
  text(width - 2, height - 4, "end", count(last));
  place.replaceChildren(svg);
}

function drawn(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// Small helps with elements. All text that comes from files goes through here, as text and never as markup.

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === false || value === undefined) continue;
    made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

let silence;

// Shows one line for a while; `lasting` until the next one.
export function say(text, lasting = false) {
  const notice = document.querySelector(".notice");
  clearTimeout(silence);
  notice.textContent = text;
  notice.hidden = !text;
  if (text && !lasting) silence = setTimeout(() => (notice.hidden = true), 4000);
}

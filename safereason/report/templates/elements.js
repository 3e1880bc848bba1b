// Elements made of text: nothing in this script parses HTML.

const byId = (id) => document.getElementById(id);

/** A new element; `onclick` and the like are listeners, true is a bare attribute, false and null are none. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child != null && child !== false));
  return element;
}

const grouped = (n) => String(n).replace(/\B(?=(\d{3})+$)/g, "\u2009");
const counted = (n, noun) => `${grouped(n)} ${noun}${n === 1 ? "" : "s"}`;
const wordCount = (text) => counted((text.match(/\S+/g) ?? []).length, "word");

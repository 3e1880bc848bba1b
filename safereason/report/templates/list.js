// The list: of any number of transcripts, only those in sight are elements.

const BEYOND = 6; // rows drawn above and below what is in sight

const COLUMNS = [
  ["verdict", "Verdict"],
  ["model", "Model"],
  ["evaluation", "Evaluation"],
  ["test", "Attack or set"],
  ["kind", "Kind"],
  ["tokens", "Tokens"],
  ["prompt", "Prompt"],
];

class TranscriptList {
  /** `openAt(place)` is told of a row that was clicked, `sortBy(column)` of a heading, and `textOf(t)` gives a prompt's line. */
  constructor(grid, { openAt, sortBy, textOf }) {
    Object.assign(this, { grid, textOf, items: [], at: 0 });
    this.heads = COLUMNS.map(([name, title]) =>
      make("div", { role: "columnheader", class: `c-${name}` }, name === "prompt" ? title : make("button", { type: "button", onclick: () => sortBy(name) }, title)),
    );
    this.rows = make("div", { role: "rowgroup", class: "rows", onclick: (event) => {
      const row = event.target.closest("[role=row]");
      if (row) openAt(Number(row.dataset.at));
    } });
    this.head = make("div", { role: "rowgroup", class: "heads" }, make("div", { role: "row", "aria-rowindex": 1 }, ...this.heads));
    grid.replaceChildren(this.head, this.rows);
    grid.addEventListener("scroll", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(grid);
  }

  get rowHeight() {
    return 2.1 * parseFloat(getComputedStyle(document.documentElement).fontSize);
  }

  /** Lists these, with row `at` as the current one. */
  show(items, sort, at = 0) {
    this.items = items;
    this.at = Math.max(0, Math.min(at, items.length - 1));
    this.grid.setAttribute("aria-rowcount", items.length + 1);
    COLUMNS.forEach(([name], i) => {
      const order = sort === name ? "ascending" : sort === `-${name}` ? "descending" : "none";
      this.heads[i].setAttribute("aria-sort", order);
    });
    this.reveal();
  }

  /** Makes row `at` the current one. */
  moveTo(at) {
    this.at = Math.max(0, Math.min(at, this.items.length - 1));
    this.reveal();
  }

  get pageLength() {
    return Math.max(1, Math.floor((this.grid.clientHeight - this.head.offsetHeight) / this.rowHeight) - 1);
  }

  reveal() {
    const top = this.at * this.rowHeight;
    const room = this.grid.clientHeight - this.head.offsetHeight;
    this.rows.style.height = `${this.items.length * this.rowHeight}px`;
    if (top < this.grid.scrollTop) this.grid.scrollTop = top;
    else if (top + this.rowHeight > this.grid.scrollTop + room) this.grid.scrollTop = top + this.rowHeight - room;
    this.draw();
  }

  draw() {
    const height = this.rowHeight;
    const first = Math.max(0, Math.floor(this.grid.scrollTop / height) - BEYOND);
    const last = Math.min(this.items.length, Math.ceil((this.grid.scrollTop + this.grid.clientHeight) / height) + BEYOND);
    this.rows.replaceChildren(...this.items.slice(first, last).map((t, i) => this.row(t, first + i, height)));
    if (this.items.length) this.grid.setAttribute("aria-activedescendant", `row-${this.at}`);
    else this.grid.removeAttribute("aria-activedescendant");
  }

  row(t, at, height) {
    const cells = COLUMNS.map(([name]) => {
      const text = name === "prompt" ? this.textOf(t) : name === "tokens" ? (t.tokens ?? "–") : t[name] || "–";
      return make("div", { role: "gridcell", class: `c-${name}`, dir: name === "prompt" ? "auto" : null, title: name === "model" ? text : null }, String(text));
    });
    return make("div", {
      role: "row", id: `row-${at}`, "aria-rowindex": at + 2, "aria-selected": String(at === this.at), "data-at": at,
      class: t.verdict === "unscored" ? "unscored" : null, style: `top:${at * height}px;height:${height}px`,
    }, ...cells);
  }
}

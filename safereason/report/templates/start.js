// Puts the parts together: what is typed and clicked changes the state, and the page is drawn from it.

class Browser {
  constructor() {
    this.all = readTranscripts();
    this.cases = byCase(this.all);
    this.state = stateOfAddress();
    this.isRevealed = false;
    this.form = byId("filters");
    this.search = byId("search");
    this.reader = byId("reader");
    this.grid = byId("list");
    byId("facets").replaceChildren(...facetChoices(this.all), choice("beside", "Compare with", "no other model", this.models()));
    this.list = new TranscriptList(this.grid, {
      openAt: (at) => { this.list.moveTo(at); this.open(); },
      sortBy: (name) => this.change({ sort: this.state.sort === name ? `-${name}` : this.state.sort === `-${name}` ? "" : name }),
      textOf: (t) => (t.kind === "harmful" && !this.isRevealed ? `harmful prompt, hidden · ${t.key}` : t.prompt.slice(0, 200)),
    });
    this.listen();
    byId("sample").hidden = true;
    byId("browser").hidden = false;
    this.restore();
  }

  models() {
    return [...new Set(this.all.map((t) => t.model))].sort();
  }

  listen() {
    this.form.addEventListener("input", () => this.change(readForm(this.form)));
    this.form.addEventListener("submit", (event) => { event.preventDefault(); this.grid.focus(); });
    byId("clear").addEventListener("click", () => { this.change({ ...PLAIN }); this.search.focus(); });
    addEventListener("hashchange", () => { this.state = stateOfAddress(); this.restore(); });
    document.addEventListener("keydown", (event) => this.onKey(event));
    const dialog = byId("confirm");
    byId("reveal-all").addEventListener("click", (event) => {
      if (!this.isRevealed) { event.preventDefault(); dialog.showModal(); } else this.setRevealed(false);
    });
    byId("confirm-yes").addEventListener("click", () => { dialog.close(); this.setRevealed(true); });
    byId("confirm-no").addEventListener("click", () => dialog.close());
  }

  /** Draws from the address, such as after loading. */
  restore() {
    fillForm(this.form, this.state);
    this.refresh();
    if (location.hash.startsWith(ADDRESS)) byId("transcripts").scrollIntoView();
  }

  change(changes) {
    Object.assign(this.state, changes);
    fillForm(this.form, this.state);
    this.refresh();
    putIntoAddress(this.state);
  }

  setRevealed(isRevealed) {
    this.isRevealed = isRevealed;
    byId("reveal-all").checked = isRevealed;
    this.list.draw();
    this.drawReader();
  }

  twinOf(t) {
    if (!this.state.beside || this.state.beside === t.model) return undefined;
    return this.cases.get(caseOf(t)).find((other) => other.model === this.state.beside);
  }

  refresh() {
    const items = selected([...this.all], this.state, (t) => this.twinOf(t));
    const at = items.findIndex((t) => String(t.place) === this.state.open);
    this.list.show(items, this.state.sort, at);
    byId("count").textContent = `${grouped(items.length)} of ${counted(this.all.length, "transcript")}`;
    this.drawReader();
  }

  get opened() {
    return this.state.open === "" ? undefined : this.all[Number(this.state.open)];
  }

  open() {
    const t = this.list.items[this.list.at];
    if (!t) return;
    this.state.open = String(t.place);
    putIntoAddress(this.state);
    this.drawReader();
  }

  close() {
    this.state.open = "";
    putIntoAddress(this.state);
    this.drawReader();
    this.grid.focus();
  }

  drawReader() {
    const t = this.opened;
    this.reader.hidden = !t;
    if (!t) return this.reader.replaceChildren();
    const twin = this.twinOf(t);
    const alone = this.state.beside && !twin && this.state.beside !== t.model;
    const button = (title, onclick) => make("button", { type: "button", onclick }, title);
    this.reader.replaceChildren(
      make("header", {},
        make("h3", { id: "reader-title", tabindex: -1 }, [t.evaluation, t.test, t.kind, t.key].filter(Boolean).join(" · ")),
        make("div", { class: "buttons" }, button("Previous", () => this.step(-1)), button("Next", () => this.step(1)), button("Close", () => this.close())),
      ),
      alone ? make("p", { class: "aside" }, `${this.state.beside} was not asked this.`) : "",
      ...readerParts(t, twin, this.isRevealed),
    );
  }

  /** Moves by so many rows; an open reader moves along. */
  step(rows) {
    const isReading = this.reader.contains(document.activeElement);
    this.list.moveTo(this.list.at + rows);
    if (!this.reader.hidden) this.open();
    if (isReading) byId("reader-title").focus();
  }

  onKey(event) {
    const inside = byId("transcripts").contains(event.target);
    if (event.ctrlKey || event.metaKey || event.altKey || byId("confirm").open || !(inside || event.target === document.body)) return;
    const isTyping = event.target.matches("input[type=search], select");
    const inList = event.target === this.grid;
    const action = isTyping ? this.typingKey(event) : (inList && this.listKey(event.key)) || this.anyKey(event.key);
    if (!action) return;
    event.preventDefault();
    action();
  }

  typingKey(event) {
    const leaves = event.key === "Escape" || (event.key === "ArrowDown" && event.target === this.search);
    return leaves ? () => this.grid.focus() : null;
  }

  listKey(key) {
    const page = this.list.pageLength;
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (key in steps) return () => this.step(steps[key]);
    return key === "Enter" ? () => { this.open(); byId("reader-title")?.focus(); } : null;
  }

  anyKey(key) {
    const actions = { j: () => this.step(1), k: () => this.step(-1), "/": () => this.search.focus() };
    return actions[key] ?? (key === "Escape" && !this.reader.hidden ? () => this.close() : null);
  }
}

startTheme();
if (byId("transcript-data")) new Browser();

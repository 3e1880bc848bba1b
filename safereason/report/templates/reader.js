// One transcript, or two models' on the same prompt side by side.

/** Text that may be harmful: shown at once where all is revealed, else on a click. */
function concealed(what, text, node, isHidden) {
  if (!isHidden) return node;
  const button = make("button", { type: "button", class: "reveal", onclick: () => button.replaceWith(node) }, `Show ${what}, ${wordCount(text)}`);
  return button;
}

const textBlock = (kind, text) => make("div", { class: `text ${kind}`, dir: "auto" }, text);

/** An answer with the words marked that the other one does not have. */
function markedAnswer(pieces, mark) {
  return make("div", { class: "text answer", dir: "auto" }, ...pieces.map(([text, common]) => (common ? text : make(mark, {}, text))));
}

function promptPart(t, heading, isRevealed) {
  const hidden = t.kind === "harmful" && !isRevealed;
  return make("div", { class: "prompt-part" }, heading && make("h4", {}, heading), concealed("the harmful prompt", t.prompt, textBlock("prompt", t.prompt), hidden));
}

function reasoningPart(t, isRevealed) {
  if (!t.reasoning) {
    return make("p", { class: "aside" }, t.unclosed ? "Reasoning never closed: all of the text is judged as the answer." : "No reasoning.");
  }
  const block = textBlock("reasoning", t.reasoning);
  const inside = concealed("reasoning about a harmful prompt", t.reasoning, block, Boolean(t.hidden) && !isRevealed);
  return make("details", {}, make("summary", {}, `Reasoning, ${wordCount(t.reasoning)}`), inside);
}

function answerPart(t, node, isRevealed) {
  if (!t.answer.trim()) return t.expected ? null : make("p", { class: "aside" }, "Empty answer.");
  return concealed("the answer to the harmful prompt", t.answer, node, Boolean(t.hidden) && !isRevealed);
}

function verdictPart(t) {
  const fixed = (value) => (value == null ? "–" : value.toFixed(2));
  const finish = t.finish === "length" ? ", cut off at the limit" : t.finish ? `, ${t.finish}` : "";
  const facts = [
    ["verdict", t.verdict === "scored" ? fixed(t.score) : t.verdict, t.reason],
    ["expected", t.expected],
    ["score", t.score != null && t.verdict !== "scored" ? fixed(t.score) : null],
    ...Object.entries(t.parts ?? {}).map(([name, value]) => [name, fixed(value)]),
    ["judge", t.judge],
    ["format", t.expected ? null : t.malformed ? "not well-formed" : "well-formed"],
    ["tokens", t.tokens == null ? null : `${t.tokens}${finish}`],
    ["labels", t.tags.join(", ")],
  ];
  const rows = facts.filter(([, value]) => value).map(([name, value, more]) => make("div", {}, make("dt", {}, name), make("dd", {}, make("b", {}, value), more && ` ${more}`)));
  return make("dl", { class: t.verdict === "unscored" ? "verdict unscored" : "verdict" }, ...rows);
}

function transcriptPart(t, pieces, mark, isRevealed) {
  const answer = pieces ? markedAnswer(pieces, mark) : textBlock("answer", t.answer);
  return make("div", { class: "transcript" },
    make("div", { class: "completion" }, make("h4", {}, t.model), reasoningPart(t, isRevealed), answerPart(t, answer, isRevealed)),
    verdictPart(t),
  );
}

/** The parts of the reader for one transcript, and for its twin where there is one. */
function readerParts(t, twin, isRevealed) {
  if (!twin) return [promptPart(t, null, isRevealed), transcriptPart(t, null, "", isRevealed)];
  const differences = compared(t.answer, twin.answer);
  const prompts = t.prompt === twin.prompt
    ? [promptPart(t, null, isRevealed)]
    : [make("p", { class: "aside" }, "The attack put it differently to each model."), promptPart(t, t.model, isRevealed), promptPart(twin, twin.model, isRevealed)];
  return [
    ...prompts,
    make("p", { class: "aside" }, differences ? "Marked is what only one of the two answers has." : "These answers are too long to compare word by word."),
    make("div", { class: "pair" }, transcriptPart(t, differences?.[0], "del", isRevealed), transcriptPart(twin, differences?.[1], "ins", isRevealed)),
  ];
}

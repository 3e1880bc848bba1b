// Which transcripts are listed, in which order, and how the address says so.

const FACETS = ["model", "evaluation", "test", "judge", "verdict", "kind"];
const PLAIN = { q: "", model: "", evaluation: "", test: "", judge: "", verdict: "", kind: "", cut: "", differs: "", sort: "", beside: "", open: "" };
const ADDRESS = "#transcripts?";

/** The transcripts that the page holds, each with its place and what a search looks through. */
function readTranscripts() {
  const { prompts, transcripts } = JSON.parse(byId("transcript-data").textContent);
  return transcripts.map((t, place) => ({ reasoning: "", answer: "", test: "", tags: [], ...t, place, prompt: prompts[t.prompt] }));
}

const caseOf = (t) => `${t.evaluation}\n${t.key}\n${t.judge ?? ""}`;

/** All models' transcripts of each prompt. */
function byCase(transcripts) {
  const cases = new Map();
  for (const t of transcripts) cases.set(caseOf(t), [...(cases.get(caseOf(t)) ?? []), t]);
  return cases;
}

function searched(t) {
  t.searched ??= [t.prompt, t.reasoning, t.answer, t.key, t.reason, ...t.tags].join("\n").toLowerCase();
  return t.searched;
}

/** The transcripts that agree with every filter and hold every word searched for. */
function selected(transcripts, state, twinOf) {
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  const facets = FACETS.filter((name) => state[name]);
  return sorted(
    transcripts.filter(
      (t) =>
        facets.every((name) => t[name] === state[name]) &&
        (!state.cut || t.finish === "length") &&
        (!state.differs || differs(t, twinOf(t))) &&
        words.every((word) => searched(t).includes(word)),
    ),
    state.sort,
  );
}

const differs = (t, twin) => twin != null && twin.verdict !== t.verdict;

/** By a column such as `tokens`, or `-tokens` from the highest; what has no value comes last. */
function sorted(transcripts, sort) {
  if (!sort) return transcripts;
  const [sign, name] = sort.startsWith("-") ? [-1, sort.slice(1)] : [1, sort];
  return transcripts.sort((a, b) => {
    const [x, y] = [a[name] ?? "", b[name] ?? ""];
    if (x === "" || y === "") return (x === "") - (y === "") || a.place - b.place;
    return sign * (typeof x === "number" ? x - y : x.localeCompare(y)) || a.place - b.place;
  });
}

function stateOfAddress() {
  const given = location.hash.startsWith(ADDRESS) ? new URLSearchParams(location.hash.slice(ADDRESS.length)) : [];
  return { ...PLAIN, ...Object.fromEntries([...given].filter(([name]) => name in PLAIN)) };
}

function putIntoAddress(state) {
  const said = new URLSearchParams(Object.entries(state).filter(([, value]) => value));
  history.replaceState(null, "", ADDRESS + said);
}

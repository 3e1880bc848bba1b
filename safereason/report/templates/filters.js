// The filters above the list.

const FACET_TITLES = { model: "Model", evaluation: "Evaluation", test: "Attack or set", judge: "Judge", verdict: "Verdict", kind: "Kind" };

/** One choice for each facet, filled with what the transcripts have; a facet with one value has none. */
function facetChoices(transcripts) {
  return FACETS.flatMap((name) => {
    const values = [...new Set(transcripts.map((t) => t[name]))].filter(Boolean).sort();
    return values.length > 1 ? [choice(name, FACET_TITLES[name], "all", values)] : [];
  });
}

function choice(name, title, none, values) {
  return make("label", {}, title, make("select", { name, "aria-label": title },
    make("option", { value: "" }, none), ...values.map((value) => make("option", { value }, value))));
}

/** Puts the state into the form. */
function fillForm(form, state) {
  for (const field of form.elements) {
    if (!(field.name in PLAIN)) continue;
    if (field.type === "checkbox") field.checked = Boolean(state[field.name]);
    else field.value = state[field.name];
  }
}

/** What the form says. */
function readForm(form) {
  const fields = [...form.elements].filter((field) => field.name in PLAIN);
  return Object.fromEntries(fields.map((field) => [field.name, field.type === "checkbox" ? (field.checked ? "1" : "") : field.value]));
}

// The table of layers. Rows are made once; filtering hides them, sorting moves them. They stand in bodies of a few, which
// the browser lays out only when they come into sight: so thousands of layers stay quick.

const COLUMNS = [
  { key: "name", text: "layer" },
  { key: "kind", text: "kind" },
  { key: "shape", text: "shapes" },
  { key: "role", text: "role" },
  { key: "becomes", text: "decision" },
  { key: "reason", text: "reason" },
  { key: "parameters_before", text: "params", long: "parameters before", number: true },
  { key: "parameters_after", text: "after", long: "parameters after", number: true },
  { key: "macs_before", text: "mult-adds", long: "multiply-adds before", number: true },
  { key: "macs_after", text: "after", long: "multiply-adds after", number: true },
];
const IN_A_BODY = 40;
const DIGITS = new Intl.Collator("en", { numeric: true });

function layerTable(models) {
  const entries = models.flatMap((model) => model.layers.map((layer) => entryOf(model, layer)));
  entries.forEach((entry, number) => { entry.place = number; });
  const sorting = { key: null, falling: false };
  const wanted = { text: "", role: "", decision: "" };
  const found = make("p", { class: "found", role: "status" });
  const bodies = Array.from({ length: Math.ceil(entries.length / IN_A_BODY) }, () => make("tbody", { role: "rowgroup" }));
  const ranks = {};
  const heads = COLUMNS.map((column) => make("th", {
    scope: "col", role: "columnheader", "aria-sort": "none", class: column.number ? "number" : null,
  }, make("button", { type: "button", onclick: () => sortBy(column) }, ...headText(column))));

  function sortBy(column) {
    // Numbers are asked for the largest first; the third press brings the model's own order back.
    const first = Boolean(column.number);
    if (sorting.key !== column.key) Object.assign(sorting, { key: column.key, falling: first });
    else if (sorting.falling === first) sorting.falling = !first;
    else sorting.key = null;
    const sign = sorting.falling ? -1 : 1, rank = sorting.key === null ? () => 0 : rankOf(column);
    entries.sort((a, b) => sign * (rank(a) - rank(b)) || a.place - b.place);
    heads.forEach((head, number) => head.setAttribute("aria-sort",
      COLUMNS[number].key !== sorting.key ? "none" : sorting.falling ? "descending" : "ascending"));
    place();
  }

  // Comparing words is slow: that is done once for each column and word.
  function rankOf(column) {
    if (column.number) return (entry) => entry.values[column.key];
    ranks[column.key] ||= new Map([...new Set(entries.map((entry) => entry.values[column.key]))]
      .sort(DIGITS.compare).map((word, number) => [word, number]));
    return (entry) => ranks[column.key].get(entry.values[column.key]);
  }

  function place() {
    bodies.forEach((body, number) =>
      body.replaceChildren(...entries.slice(number * IN_A_BODY, (number + 1) * IN_A_BODY).map((entry) => entry.row)));
    measure();
  }

  // How high a body is that was never laid out.
  function measure() {
    for (const body of bodies) {
      const rows = [...body.rows].filter((row) => !row.hidden).length;
      body.hidden = rows === 0;
      body.style.setProperty("--rows", rows);
    }
  }

  function filter() {
    const words = wanted.text.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0, before = 0, after = 0;
    for (const entry of entries) {
      const fits = (!wanted.role || entry.values.role === wanted.role)
        && (!wanted.decision || wanted.decision === entry.decision || wanted.decision === entry.rule)
        && words.every((word) => entry.text.includes(word));
      if (entry.row.hidden === fits) entry.row.hidden = !fits;
      if (!fits) continue;
      count += 1; before += entry.values.parameters_before; after += entry.values.parameters_after;
    }
    const sums = count ? `; ${human(before)} → ${human(after)} parameters` : "";
    found.textContent = `${exact(count)} of ${exact(entries.length)} layers${sums}`;
    empty.hidden = count > 0;
    measure();
  }

  const empty = make("p", { class: "muted", hidden: true }, "No layer is like that.");
  const search = make("input", { type: "search", placeholder: "name, kind, operator, reason", autocomplete: "off", spellcheck: "false",
    oninput: () => { wanted.text = search.value; filter(); } });
  const role = select(["", ...new Set(entries.map((entry) => entry.values.role))], (value) => value || "every role",
    (value) => { wanted.role = value; filter(); });
  const meanings = Object.fromEntries(models.flatMap((model) => model.kept.map((group) => [group.rule, group.meaning])));
  const rules = [...new Set(entries.filter((entry) => entry.decision === "keep").map((entry) => entry.rule))];
  const decision = select(["", "replace", "keep", ...rules],
    (value) => ({ "": "every decision", replace: "replaced", keep: "kept" })[value] || `kept: ${meanings[value] || value}`,
    (value) => { wanted.decision = value; filter(); });

  show("layers",
    make("div", { class: "controls", role: "search", "aria-label": "Layers" },
      make("label", {}, make("span", {}, "Find"), search),
      make("label", {}, make("span", {}, "Role"), role),
      make("label", {}, make("span", {}, "Decision and reason"), decision),
      found),
    make("table", { class: "layers", role: "table" },
      make("caption", { class: "unseen" }, "Layers, what becomes of each, and why. Headings sort."),
      make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, heads)),
      bodies),
    empty);
  place();
  filter();

  // For the table of reasons: show the layers of one.
  return (rule) => {
    decision.value = rule; role.value = ""; search.value = "";
    Object.assign(wanted, { text: "", role: "", decision: rule });
    filter();
    byId("layers").focus();
  };
}

function headText(column) {
  return column.long
    ? [make("span", { class: "short", "aria-hidden": "true" }, column.text), make("span", { class: "unseen long" }, column.long)]
    : [column.text];
}

function select(values, text, chosen) {
  const made = make("select", { onchange: () => chosen(made.value) }, values.map((value) => make("option", { value }, text(value))));
  return made;
}

function entryOf(model, layer) {
  const name = model.part ? `${model.part}.${layer.name}` : layer.name;
  const kind = [layer.kind, times(layer.kernel_size)].join(" ").trim();
  const widths = `${layer.in_channels}→${layer.out_channels}`;
  const shape = layer.input_shape && layer.output_shape
    ? `${times(layer.input_shape)} → ${times(layer.output_shape)}` : `${widths} channels`;
  const becomes = layer.decision === "replace" ? layer.becomes : "kept";
  const values = { ...layer, name, kind, shape, becomes };
  const number = (key) => {
    const same = key.endsWith("_after") && layer[key] === layer[key.replace("_after", "_before")];
    return make("td", { class: same ? "number same" : "number", role: "cell", title: exact(layer[key]),
      "data-label": key.replace("_", " ").replace("macs", "mult-adds") }, human(layer[key]));
  };
  const note = [layer.attention, layer.groups > 1 ? `${layer.groups} groups` : null, layer.calls > 1 ? `called ${layer.calls} times` : null];
  const details = note.filter(Boolean).join(", ");
  const row = make("tr", { role: "row" },
    make("th", { scope: "row", role: "rowheader", "aria-label": name }, breakable(name)),
    make("td", { class: "kind", role: "cell", title: widths }, kind),
    make("td", { class: "shape", role: "cell" }, shape),
    make("td", { class: "role", role: "cell" }, layer.role),
    make("td", { class: layer.decision === "replace" ? "becomes becomes-replaced" : "becomes same", role: "cell" }, becomes),
    make("td", { class: "reason", role: "cell" }, details ? `${layer.reason} (${details})` : layer.reason),
    COLUMNS.filter((column) => column.number).map((column) => number(column.key)));
  const text = [name, kind, widths, layer.role, becomes, layer.reason, layer.rule, details].join(" ").toLowerCase();
  return { row, values, text, decision: layer.decision, rule: layer.rule };
}

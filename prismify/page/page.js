// The page of a document, see prismify/page/document.py.

function modelsOf(report) {
  return Object.entries(report.parts || { "": report }).map(([part, model]) => {
    const layers = unpacked(model.layers);
    const inLayers = layers.reduce((sum, layer) => sum + layer.parameters_after, 0);
    return { ...model, part, layers, otherAfter: Math.max(0, model.parameters.after - inLayers) };
  });
}

function summary(report, models) {
  const replaced = models.reduce((sum, model) => sum + model.replaced.layers, 0);
  const layers = models.reduce((sum, model) => sum + model.layers.length, 0);
  const excluded = report.parameters.excluded.map((entry) =>
    (entry.numbers === null ? entry.what : `${entry.what} (${exact(entry.numbers)} numbers)`));
  const policies = [...new Set(models.map((model) => model.policy.name))];
  byId("summary").append(
    make("p", {}, `${exact(replaced)} of ${exact(layers)} layers are replaced, by policy ${policies.join(", ")}. ` +
      `Multiply-adds are those of one pass (${report.macs.inputs || "of nothing, for nothing could be run"}). ` +
      `Not in the parameter counts: ${excluded.join("; ") || "nothing"}.`),
    ...(models.some((model) => model.fresh && !model.notes.some((note) => note.startsWith("Trained with")))
      ? [make("p", { class: "note" }, "The source is an architecture without weights: every weight is fresh.")] : []),
    ...models.flatMap((model) => model.notes.map((note) => make("p", { class: "note" }, model.part ? `${model.part}: ${note}` : note))));
}

function reasons(models, showLayers) {
  for (const model of models) {
    const numbers = (layers, parameters) => [layers, make("span", { title: exact(parameters) }, human(parameters)),
      `${((100 * parameters) / Math.max(1, model.parameters.after)).toFixed(1)}%`];
    const link = (rule, text) => make("button", { type: "button", class: "link", onclick: () => showLayers(rule) }, text);
    const rows = model.kept.map((group) => [link(group.rule, group.meaning), ...numbers(exact(group.layers), group.parameters)]);
    const { layers, parameters_after: left } = model.replaced;
    if (layers) rows.unshift([link("replace", "what takes the place of replaced layers"), ...numbers(exact(layers), left)]);
    if (model.otherAfter) rows.push(["norms and others, outside of layers", ...numbers("", model.otherAfter)]);
    if (!rows.length) continue;
    show("kept", plainTable(`${model.part ? `${model.part}: p` : "P"}arameters of the result by reason; a reason shows its layers below`,
      ["reason", "layers", "parameters", "of the result"], rows, [1, 2, 3]));
  }
}

function reading(models) {
  for (const model of models) {
    const inputs = (row) => row.inputs.map((input) => `${input.name} ${times(input.shape) || "scalar"}`).join(", ") || "no inputs found";
    const lines = model.capture.map((row) => make("li", {}, make("code", {}, row.method), `: ${row.technique}, with ${inputs(row)}`,
      row.failed.length ? make("ul", {}, row.failed.map((reason) => make("li", {}, `not by ${reason}`))) : null));
    if (lines.length) show("reading", model.part ? make("h3", {}, model.part) : null, make("ul", {}, lines));
  }
}

(function () {
  const content = JSON.parse(byId("document").textContent);
  const models = content.report ? modelsOf(content.report) : [];
  if (content.report) summary(content.report, models);
  if (models.some((model) => model.layers.length)) {
    picture(models);
    reasons(models, layerTable(models));
  }
  latencies(models);
  if (content.search) searched(content.search);
  content.runs.forEach(ran);
  reading(models);
})();

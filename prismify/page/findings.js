// What was found out beside the plan: times, a search's scores, and runs.

function latencies(models) {
  const ms = (value) => `${Number(value.toPrecision(3))} ms`;
  for (const { part, latency, slower } of models.filter((model) => model.latency)) {
    const rows = ["forward", "forward and backward"].filter((name) => latency[name]).map((name) => {
      const { original, converted, fused } = latency[name];
      const cells = (row) => (row ? [ms(row.median_ms), ratioText(row.times_original, 1)] : ["–", "–"]);
      return [name, ms(original.median_ms), ...cells(converted), ...cells(fused)];
    });
    const where = `${latency.device}, ${latency.threads} threads, ${latency.method}: ${latency.inputs}`;
    const names = (row) => make("code", {}, breakable(row.names[0]), row.names.length > 1 ? ` and ${row.names.length - 1} more` : "");
    const layers = latency.layers.map((row) => [names(row), times(row.input_shape), ms(row.before_ms), ms(row.after_ms), ratioText(row.faster, 1)]);
    show("latency",
      plainTable(`${part ? `${part}: ` : ""}measured on ${where}`, ["pass", "before", "after", "faster", "fused", "faster"], rows, [1, 2, 3, 4, 5]),
      make("h3", {}, "By kind of layer"),
      plainTable("one layer of each kind and size", ["layers", "at", "before", "after", "faster"], layers, [2, 3, 4]),
      slower.map((line) => make("p", { class: "note" }, line)));
  }
}

// Rows against columns, as a table whose cells are the warmer the more they cost.
function searched(search) {
  const place = make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Scores" });
  function render(key) {
    const measure = search.measures[key];
    const known = measure.cells.flat().filter((value) => value !== null && value > 0).map(Math.log10);
    const least = Math.max(Math.min(...known), Math.max(...known) - 5), most = Math.max(...known);
    const cell = (value) => {
      if (value === null) return make("td", {}, make("span", { class: "unseen" }, "none"));
      const made = make("td", { class: "hot" }, measure.counts ? human(value) : figures(Number(value.toPrecision(2))));
      const level = value > 0 && most > least ? (Math.log10(value) - least) / (most - least) : 0;
      made.style.setProperty("--level", Math.max(0, Math.min(1, level)).toFixed(3));
      return made;
    };
    place.replaceChildren(make("table", { class: "heat" },
      make("caption", {}, make("span", {}, `${measure.text}; ${search.how}`)),
      make("thead", {}, make("tr", {}, make("th", { scope: "col" }, search.of), search.columns.map((name) => make("th", { scope: "col" }, name)))),
      make("tbody", {}, search.rows.map((name, row) =>
        make("tr", {}, make("th", { scope: "row", "aria-label": name }, breakable(name)), measure.cells[row].map(cell))))));
  }
  const names = Object.fromEntries(Object.entries(search.measures).map(([key, measure]) => [key, measure.name]));
  const first = Object.keys(names)[0];
  show("search", search.told.map((line) => make("p", {}, line)),
    Object.keys(names).length > 1 ? make("div", { class: "controls" }, choice("measure", "Shown", names, first, render)) : null, place);
  render(first);
}

function ran(run) {
  const facts = run.facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]);
  show("runs", make("h3", {}, run.name), make("dl", { class: "facts" }, facts));
  for (const [title, series] of [["Losses", run.losses], ["On held-out images", run.measured]]) {
    const charts = Object.entries(series).filter(([, points]) => points.some((point) => point[1] !== null));
    if (!charts.length) continue;
    show("runs", make("h3", {}, title), make("div", { class: "charts" }, charts.map(([name, points]) => chart(name, points))));
  }
  const measures = Object.keys(run.measured);
  if (measures.length) {
    const steps = run.measured[measures[0]].map((point) => point[0]);
    const at = measures.map((name) => new Map(run.measured[name]));
    show("runs", make("details", {}, make("summary", {}, "The measurements in numbers"), plainTable("On held-out images, by step",
      ["step", ...measures], steps.map((step) => [exact(step), ...at.map((points) => (points.has(step) ? figures(points.get(step)) : ""))]),
      [0, ...measures.map((_, number) => number + 1)])));
  }
  if (run.pictures.length) {
    show("runs", make("h3", {}, "Pictures"), make("div", { class: "pictures" }, run.pictures.map((picture) =>
      make("figure", {},
        make("img", { src: picture.source, width: picture.width, height: picture.height, class: picture.width < 700 ? "pixels" : null,
          alt: `${picture.what}, at step ${exact(picture.step)}` }),
        make("figcaption", {}, `${picture.what}, at step ${exact(picture.step)}`)))));
  }
}

// One line over the steps; logarithmic where it falls by more than a factor of twenty.
function chart(name, points) {
  const known = points.filter((point) => point[1] !== null);
  const values = known.map((point) => point[1]);
  const least = Math.min(...values), most = Math.max(...values);
  const logarithmic = least > 0 && most / least > 20;
  const scale = logarithmic ? Math.log10 : (value) => value;
  const [low, high] = [scale(least), scale(most)];
  const [first, last] = [known[0], known[known.length - 1]];
  const width = 240, height = 84, top = 6;
  const x = (step) => (((step - first[0]) / (last[0] - first[0] || 1)) * width).toFixed(1);
  const y = (value) => (top + (1 - (high > low ? (scale(value) - low) / (high - low) : 0.5)) * (height - top)).toFixed(1);
  const path = known.map(([step, value], number) => `${number ? "L" : "M"}${x(step)} ${y(value)}`).join("");
  const dots = known.length < 25 ? known.map(([step, value]) => `M${x(step)} ${y(value)}h0`).join("") : "";
  const words = `${name.replaceAll("_", " ")}: ${figures(first[1])} at step ${exact(first[0])}, ${figures(last[1])} at step ${exact(last[0])}, ` +
    `between ${figures(least)} and ${figures(most)}`;
  return make("figure", { class: "chart" },
    make("figcaption", {}, name.replaceAll("_", " "), make("span", {}, `${figures(last[1])}${logarithmic ? ", logarithmic" : ""}`)),
    draw("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": words },
      draw("title", {}, words),
      draw("path", { class: "axis", d: `M0 ${height}H${width}` }),
      draw("path", { d: path }),
      draw("path", { class: "dots", d: dots })),
    make("p", { "aria-hidden": "true" }, make("span", {}, exact(first[0])), make("span", {}, `${figures(least)} to ${figures(most)}`),
      make("span", {}, `step ${exact(last[0])}`)));
}

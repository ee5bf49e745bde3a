// The model as a treemap of its modules, beside a table of the same numbers, which also leads through it by keyboard.

const COUNTS = { parameters: "parameters", macs: "multiply-adds" };
const STATES = { before: "before", after: "after", scale: "after, to scale" };
const KINDS = {
  "is-replaced": "replaced",
  "is-ends": "input and output layers",
  "is-kept": "kept for other reasons",
  "is-other": "norms and others",
};

function kindOf(layer) {
  if (!layer) return "is-other";
  if (layer.decision === "replace") return "is-replaced";
  return layer.rule === "input_output" ? "is-ends" : "is-kept";
}

function picture(models) {
  const root = moduleTree(models);
  const view = { count: "parameters", state: "before", node: root };
  const map = draw("svg", { class: "map", role: "img", "aria-labelledby": "map-title map-text" });
  const trail = make("ol", { class: "trail", "aria-label": "Module" });
  const modules = make("div", { class: "modules", tabindex: "0", role: "region", "aria-label": "The modules in numbers" });
  const told = make("p", { class: "unseen", role: "status" });
  const sizeOf = (node) => node.sums[`${view.count}_${view.state === "before" ? "before" : "after"}`] || 0;

  function open(node) {
    view.node = node;
    render();
    told.textContent = `${node.path.join(".") || "whole model"} is shown`;
  }

  function render() {
    renderTrail();
    renderMap();
    renderModules();
  }

  function renderTrail() {
    const way = [];
    for (let node = view.node; node; node = node.parent) way.unshift(node);
    trail.replaceChildren(...way.map((node, number) => make("li", {}, number === way.length - 1
      ? make("span", { "aria-current": "true" }, node.name || "whole model")
      : make("button", { type: "button", class: "link", onclick: () => { open(node); trail.focus(); } }, node.name || "whole model"))));
  }

  function renderMap() {
    const width = Math.max(280, Math.round(map.parentNode.clientWidth || 800));
    const height = Math.round(Math.min(520, Math.max(320, width * 0.62)));
    map.setAttribute("viewBox", `0 0 ${width} ${height}`);
    map.style.height = `${height}px`;
    const node = view.node, total = sizeOf(node);
    const before = node.sums[`${view.count}_before`] || 0;
    const side = view.state === "scale" && before ? Math.sqrt(Math.min(1, total / before)) : 1;
    const name = node.path.join(".") || "the whole model";
    const words = `${COUNTS[view.count]} of ${name}, ${STATES[view.state]}`;
    map.replaceChildren(
      draw("title", { id: "map-title" }, words),
      draw("desc", { id: "map-text" }, `${exact(total)} ${COUNTS[view.count]}. ${spoken(node)}The table beside says the same in numbers.`));
    const drawing = draw("g", { "aria-hidden": "true" });
    map.append(drawing);
    if (side < 1) {
      drawing.append(draw("rect", { class: "is-other", width, height }),
        draw("text", { x: width - 10, y: height - 10, "text-anchor": "end" }, `the whole area: ${human(before)} before`));
    }
    if (total > 0) fill(drawing, node, { x: 0, y: 0, width: width * side, height: height * side }, true);
    else drawing.append(draw("text", { x: 12, y: 24 }, before ? "nothing is left here" : `no ${COUNTS[view.count]} here`));
    if (side < 1) {
      const label = `${human(total)} after, ${ratioText(before, total)} smaller`;
      const beside = width * side + 8 < width - 190;
      drawing.append(draw("text", beside ? { x: width * side + 8, y: 16 } : { x: 10, y: height - 26 }, label));
    }
  }

  function spoken(node) {
    const largest = steps(node).sort((a, b) => sizeOf(b) - sizeOf(a)).slice(0, 3).filter((child) => sizeOf(child) > 0);
    const share = (child) => `${inner(child)} ${Math.round((100 * sizeOf(child)) / sizeOf(node))} percent`;
    return largest.length ? `Largest: ${largest.map(share).join(", ")}. ` : "";
  }

  const inner = (child) => child.path.slice(view.node.path.length).join(".") || child.name;

  function fill(parent, node, box, top) {
    const children = node.leaf ? [node] : steps(node);
    for (const { node: child, x, y, width, height } of squarified(children, sizeOf, box)) {
      const holds = child.children.size > 0;
      const shown = child === node ? child.name : child.path.slice(node.path.length).join(".");
      const group = draw("g", { class: holds ? "group" : "cell" });
      const hint = draw("title", {}, `${child.path.join(".")}\n${human(sizeOf(child))} ${COUNTS[view.count]}` +
        (child.layer ? `\n${child.layer.becomes || "kept"}: ${child.layer.reason}` : ""));
      group.append(hint);
      if (top && holds) {
        group.setAttribute("data-open", "");
        group.addEventListener("click", () => open(child));
      }
      parent.append(group);
      const frame = { x: x.toFixed(1), y: y.toFixed(1), width: width.toFixed(1), height: height.toFixed(1) };
      if (!holds || width * height < 90 || width < 5 || height < 5) {
        group.append(draw("rect", { ...frame, class: holds ? mostly(child) : kindOf(child.layer) }));
        label(group, shown, x, y, width, height, !holds);
        continue;
      }
      const roomy = width > 46 && height > 34;
      group.append(draw("rect", { ...frame, class: "frame" }));
      if (roomy) label(group, shown, x, y, width, 18, false);
      const edge = roomy ? 2 : 0.5, head = roomy ? 18 : 0.5;
      fill(group, child, { x: x + edge, y: y + head, width: Math.max(0.5, width - 2 * edge), height: Math.max(0.5, height - head - edge) }, false);
    }
  }

  function label(group, text, x, y, width, height, sized) {
    const most = Math.floor((width - 8) / 6.3);
    if (height < 14 || most < Math.min(text.length, 7)) return;
    const cut = text.length > most ? `…${text.slice(text.length - most + 1)}` : text;
    group.append(draw("text", { x: (x + 4).toFixed(1), y: (y + 12.5).toFixed(1) }, cut));
    if (sized && height > 30 && width > 44) {
      const node = group.querySelector("title").textContent.split("\n")[1].split(" ")[0];
      group.append(draw("text", { x: (x + 4).toFixed(1), y: (y + 26).toFixed(1), opacity: 0.75 }, node));
    }
  }

  // Of modules too small to be looked into: the kind of most of what they hold.
  function mostly(node) {
    const sums = {};
    (function add(inner) {
      if (inner.children.size) for (const child of inner.children.values()) add(child);
      else sums[kindOf(inner.layer)] = (sums[kindOf(inner.layer)] || 0) + sizeOf(inner);
    })(node);
    return Object.entries(sums).sort((a, b) => b[1] - a[1])[0][0];
  }

  function renderModules() {
    const [before, after] = ["before", "after"].map((when) => `${view.count}_${when}`);
    const children = steps(view.node).sort((a, b) => sizeOf(b) - sizeOf(a) || b.sums[before] - a.sums[before]);
    const name = (child) => (child.children.size
      ? make("button", { type: "button", class: "link", "aria-label": inner(child), onclick: () => { open(child); modules.focus({ preventScroll: true }); } }, breakable(inner(child)))
      : make("span", {}, breakable(inner(child))));
    const rows = children.map((child) => make("tr", {}, make("th", { scope: "row" }, name(child)),
      make("td", { class: "number", title: exact(child.sums[before]) }, human(child.sums[before])),
      make("td", { class: "number", title: exact(child.sums[after]) }, human(child.sums[after])),
      make("td", { class: child.sums[before] === child.sums[after] ? "number same" : "number" },
        ratioText(child.sums[before], child.sums[after]))));
    const heading = (text, kind) => make("th", { scope: "col", class: kind }, text);
    modules.replaceChildren(make("table", { class: "plain" },
      make("caption", {}, `${COUNTS[view.count]} in ${view.node.path.join(".") || "the whole model"}`),
      make("thead", {}, make("tr", {}, heading("module"), heading("before", "number"), heading("after", "number"), heading("smaller", "number"))),
      make("tbody", {}, rows)));
  }

  const legend = make("ul", { class: "legend" }, Object.entries(KINDS).map(([kind, text]) =>
    make("li", {}, make("i", { class: kind, "aria-hidden": "true" }), text)));
  show("picture",
    make("div", { class: "controls" },
      choice("count", "Area shows", COUNTS, view.count, (value) => { view.count = value; render(); }),
      choice("state", "of the model", STATES, view.state, (value) => { view.state = value; render(); })),
    trail,
    make("div", { class: "spread" }, make("div", {}, map, legend), modules),
    told);
  trail.setAttribute("tabindex", "-1");
  render();
  let drawnAt = map.parentNode.clientWidth;
  new ResizeObserver(() => {
    if (map.parentNode.clientWidth === drawnAt) return;
    drawnAt = map.parentNode.clientWidth;
    renderMap();
  }).observe(map.parentNode);
}

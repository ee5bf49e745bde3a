// Where the rectangles of a treemap lie: squarified (Bruls, Huizing & van Wijk, 2000).

// Rectangles {node, x, y, width, height} for nodes with sizes, in the order of the sizes.
function squarified(nodes, size, box) {
  const rows = nodes.filter((node) => size(node) > 0).sort((a, b) => size(b) - size(a));
  const total = rows.reduce((sum, node) => sum + size(node), 0);
  const scale = (box.width * box.height) / total;
  const laid = [];
  let { x, y, width, height } = box;
  for (let first = 0; first < rows.length;) {
    const side = Math.min(width, height);
    let last = first, area = 0, worst = Infinity;
    while (last < rows.length) {
      const more = area + size(rows[last]) * scale;
      const thick = more / side;
      const ratios = [rows[first], rows[last]].map((node) => {
        const long = (size(node) * scale) / thick;
        return Math.max(long / thick, thick / long);
      });
      if (Math.max(...ratios) > worst && last > first) break;
      worst = Math.max(...ratios);
      area = more;
      last += 1;
    }
    const thick = area / side;
    let along = 0;
    for (const node of rows.slice(first, last)) {
      const long = (size(node) * scale) / thick;
      laid.push(width >= height
        ? { node, x, y: y + along, width: thick, height: long }
        : { node, x: x + along, y, width: long, height: thick });
      along += long;
    }
    if (width >= height) { x += thick; width -= thick; } else { y += thick; height -= thick; }
    width = Math.max(width, 1e-9); height = Math.max(height, 1e-9);
    first = last;
  }
  return laid;
}

// The modules of a model as a tree of {name, path, parent, children, sums}; a leaf has its layer, or null for the rest.
function moduleTree(models) {
  const root = { name: "", path: [], children: new Map(), sums: {} };
  for (const model of models) {
    const before = model.part ? [model.part] : [];
    for (const layer of model.layers) {
      hang(root, [...before, ...layer.name.split(".")], layer, {
        parameters_before: layer.parameters_before, parameters_after: layer.parameters_after,
        macs_before: layer.macs_before, macs_after: layer.macs_after,
      });
    }
    const rest = { parameters_before: model.other_parameters, parameters_after: model.otherAfter, macs_before: 0, macs_after: 0 };
    if (rest.parameters_before > 0) hang(root, [...before, "(norms and others)"], null, rest);
  }
  return root;
}

function hang(root, path, layer, sums) {
  let node = root;
  add(node, sums);
  for (const name of path) {
    if (node.leaf) {
      // A layer that holds layers (an attention, say) is a leaf beside them.
      Object.assign(childOf(node, "(itself)"), { leaf: true, layer: node.layer, own: node.own, sums: { ...node.own } });
      node.leaf = false;
    }
    node = childOf(node, name);
    add(node, sums);
  }
  if (node.children.size) {
    node = childOf(node, "(itself)");
    add(node, sums);
  }
  Object.assign(node, { leaf: true, layer, own: sums });
}

function add(node, sums) {
  for (const key of Object.keys(sums)) node.sums[key] = (node.sums[key] || 0) + sums[key];
}

function childOf(node, name) {
  if (!node.children.has(name)) {
    node.children.set(name, { name, path: [...node.path, name], children: new Map(), sums: {}, parent: node });
  }
  return node.children.get(name);
}

// Modules that hold one thing only are passed: encoder / 0 / conv reads as one step.
function steps(node) {
  return [...node.children.values()].map((child) => {
    let inner = child;
    while (inner.children.size === 1 && !inner.leaf) inner = [...inner.children.values()][0];
    return inner;
  });
}

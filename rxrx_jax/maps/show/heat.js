"use strict";
// The behaviour of the heat map: a cell is the mean cosine of a block of pairs, or one pair where there is room.
(window.behaviours ??= {}).heat = (doc, group) => {
  const {data, array, rows, scale, width, owner, label, cosine, percentile, percent, choose, chosen} = atlas;
  const at = name => document.querySelector(name), box = group.closest(".heat-box"), tip = at(".tip"), told = at(".told");
  const plot = doc.get_model_by_name("heat-map"), source = doc.get_model_by_name("heat");
  const mapper = doc.get_model_by_name("heat-colours"), frame = doc.get_model_by_name("heat-cursor");
  const views = data.views.map(of => ({...of, order: array(of.order)})), B = data.cells;
  const made = source.data.image[0].constructor, xs = plot.x_range, ys = plot.y_range, limits = new Map();
  let view = views[0], shown = {}, cursor = null, waiting = false;

  const clamp = (value, low, high) => Math.max(low, Math.min(high, value));
  const span = range => [Math.min(range.start, range.end), Math.max(range.start, range.end)];

  // Of blocks of `size` rows from `from` on: the sum of unit rows [B, width], how many, and the sum of squares.
  function sums(from, size) {
    const {order} = view, total = new Float32Array(B * width), count = new Uint32Array(B), self = new Float64Array(B);
    for (let b = 0; b < B; b++)
      for (let p = Math.max(0, from + b * size), end = Math.min(order.length, from + (b + 1) * size); p < end; p++) {
        const row = order[p], s = scale[row];
        let square = 0;
        for (let k = 0, r = row * width, t = b * width; k < width; k++) {
          const value = rows[r + k] * s;
          total[t + k] += value;
          square += value * value;
        }
        count[b]++;
        self[b] += square;
      }
    return {total, count, self};
  }

  function redraw() {
    waiting = false;
    const [x0, x1] = span(xs), [y0, y1] = span(ys), n = view.order.length;
    const size = Math.max(1, Math.ceil(Math.min(n, Math.max(x1 - x0, y1 - y0)) / (B - 1)));
    const x = Math.floor(clamp(x0, 0, n) / size) * size, y = Math.floor(clamp(y0, 0, n) / size) * size;
    ticks(plot.below[0], x0, x1);
    ticks(plot.left[0], y0, y1);
    if (shown.view === view && shown.size === size && shown.x === x && shown.y === y) return;
    const X = sums(x, size), Y = x === y ? X : sums(y, size), image = new Float32Array(B * B).fill(NaN);
    for (let b = 0; b < B; b++)
      for (let a = 0; a < B && Y.count[b]; a++) {
        if (!X.count[a]) break;
        let sum = 0;
        for (let k = 0, i = b * width, j = a * width; k < width; k++) sum += Y.total[i + k] * X.total[j + k];
        const pairs = Y.count[b] * X.count[a], same = y + b * size === x + a * size;
        image[b * B + a] = !same ? sum / pairs : Y.count[b] > 1 ? (sum - Y.self[b]) / (pairs - Y.count[b]) : NaN;
      }
    shown = {view, size, x, y, image};
    source.data = {image: [new made(image, [B, B])], x: [x], y: [y], dw: [B * size], dh: [B * size]};
    const key = `${views.indexOf(view)} ${size}`;
    if (!limits.has(key)) {
      const values = image.filter(value => !isNaN(value)).map(Math.abs).sort();
      const kind = view.order[0] < atlas.genes ? 0 : 1;
      limits.set(key, size === 1 ? data.limits[kind] : values[Math.floor(0.99 * (values.length - 1))] || 1);
    }
    mapper.setv({low: -limits.get(key), high: limits.get(key)});
    mark();
  }

  const later = () => { if (!waiting) { waiting = true; requestAnimationFrame(redraw); } };

  // Names of rows where they can be read, else those of the parts of the order that are wide enough.
  function ticks(axis, low, high) {
    const found = new Map(), {order, spans} = view, short = text => text.length > 16 ? text.slice(0, 15) + "…" : text;
    if (high - low <= 40)
      for (let p = Math.max(0, Math.floor(low)); p < Math.min(order.length, high); p++) found.set(p + 0.5, short(label(order[p])));
    else {
      const gap = 17 * (high - low) / plot.height;
      let before = -Infinity;
      for (const [name, from, to] of spans) {
        const middle = (from + to) / 2;
        if (middle - before > gap && middle > low && middle < high) found.set(before = middle, name);
      }
    }
    const key = [...found].join();
    if (axis.ticker.tags[0] === key) return;
    axis.ticker.tags = [key];
    axis.major_label_overrides = found;
    axis.ticker.ticks = [...found.keys()];
  }

  function look(low, high, left, right) {
    xs.setv({start: left, end: right});
    ys.setv({start: high, end: low});
  }

  // As wide as high, within the map, about a place.
  function zoom(wide, x, y) {
    const n = view.order.length, size = clamp(wide, Math.min(6, n), n), from = place => clamp(place - size / 2, 0, n - size);
    look(from(y), from(y) + size, from(x), from(x) + size);
  }

  const wide = () => Math.max(span(xs)[1] - span(xs)[0], span(ys)[1] - span(ys)[0]);

  function block(place) {
    const {size, x, y} = shown, {order} = view, name = p => label(order[p]);
    const part = (p, from) => {
      const first = from + Math.floor((p - from) / size) * size;
      return [first, Math.min(order.length, first + size) - 1];
    };
    const [i, i1] = part(place.y, y), [j, j1] = part(place.x, x);
    if (size === 1) {
      if (i === j) return `${name(i)} with itself`;
      const value = cosine(order[i], order[j]), apart = owner[order[i]] !== owner[order[j]];
      return `${name(i)} and ${name(j)}: cosine ${value.toFixed(3)}` + (apart ? `, percentile ${percent(percentile(order[i], order[j], value))}` : "");
    }
    const value = shown.image[(i - y) / size * B + (j - x) / size];
    const several = (from, to) => from === to ? name(from) : `${name(from)} to ${name(to)}`;
    return `${several(i, i1)} and ${several(j, j1)}: mean cosine ${isNaN(value) ? "–" : value.toFixed(3)} of a block of ${i1 - i + 1} by ${j1 - j + 1}`;
  }

  function mark() {
    if (!cursor || !shown.size) return;
    const {size, x, y} = shown, middle = (p, from) => from + (Math.floor((p - from) / size) + 0.5) * size;
    frame.data = {x: [middle(cursor.x, x)], y: [middle(cursor.y, y)], w: [size], h: [size]};
    told.textContent = block(cursor);
  }

  function put(place) {
    const n = view.order.length;
    cursor = {x: clamp(place.x, 0, n - 1), y: clamp(place.y, 0, n - 1)};
    const [x0, x1] = span(xs), [y0, y1] = span(ys);
    if (cursor.x < x0 || cursor.x >= x1 || cursor.y < y0 || cursor.y >= y1) zoom(wide(), cursor.x, cursor.y);
    mark();
  }

  function whole() {
    const n = view.order.length;
    look(0, n, 0, n);
  }

  function go() {
    const row = view.order.findIndex(one => owner[one] === chosen());
    if (row < 0) {
      told.textContent = `${atlas.names[chosen()]} is not in this view.`;
      return;
    }
    zoom(30, row, row);
    redraw();
    put({x: row, y: row});
  }

  function act(what) {
    const middle = range => (range.start + range.end) / 2, centre = cursor ?? {x: middle(xs), y: middle(ys)};
    if (what === "in" || what === "out") zoom(wide() * (what === "in" ? 0.5 : 2), centre.x, centre.y);
    if (what === "all") whole();
    if (what === "go") go();
  }

  const moves = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
  const acts = {"+": "in", "=": "in", "-": "out", "0": "all"};
  box.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const move = moves[event.key];
    if (move) put(cursor ? {x: cursor.x + move[0] * shown.size, y: cursor.y + move[1] * shown.size} : {x: span(xs)[0], y: span(ys)[0]});
    else if (acts[event.key]) act(acts[event.key]);
    else if (event.key === "Enter" && cursor) choose(owner[view.order[Math.floor(cursor.y)]], true);
    else return;
    event.preventDefault();
  });
  for (const button of document.querySelectorAll("[data-do]")) button.addEventListener("click", () => act(button.dataset.do));

  // Where the pointer is, in rows; null outside of the frame.
  function under(event) {
    const seen = Bokeh.index.find_one(plot), {left, top} = seen.canvas_view.el.getBoundingClientRect(), {bbox} = seen.frame;
    const [sx, sy] = [event.clientX - left, event.clientY - top], n = view.order.length;
    if (sx < bbox.left || sx > bbox.right || sy < bbox.top || sy > bbox.bottom) return null;
    const place = {x: Math.floor(seen.frame.x_scale.invert(sx)), y: Math.floor(seen.frame.y_scale.invert(sy))};
    return place.x >= 0 && place.x < n && place.y >= 0 && place.y < n ? place : null;
  }

  group.addEventListener("mousemove", event => {
    const place = under(event);
    tip.hidden = !place;
    if (!place) return;
    tip.textContent = block(place);
    const right = event.clientX + 16 + tip.offsetWidth < innerWidth;
    tip.style.left = `${right ? event.clientX + 14 : Math.max(0, event.clientX - 14 - tip.offsetWidth)}px`;
    tip.style.top = `${Math.max(0, event.clientY - 14 - tip.offsetHeight)}px`;
  });
  group.addEventListener("mouseleave", () => { tip.hidden = true; });
  let down = null;
  group.addEventListener("pointerdown", event => { down = event; }, true);
  group.addEventListener("click", event => {
    const place = under(event), still = down && Math.hypot(event.clientX - down.clientX, event.clientY - down.clientY) < 4;
    if (place && still) put(place);
  });

  at("#view").addEventListener("change", event => {
    [view, cursor, frame.data, told.textContent] = [views[+event.target.value], null, {x: [], y: [], w: [], h: []}, ""];
    plot.reset.emit?.();
    whole();
    redraw();
  });
  for (const range of [xs, ys]) range.change.connect(later);
  group.querySelector("[data-root]").style.minHeight = "";
  plot.height = Math.round(clamp(box.clientWidth - 10, 300, 640));
  whole();
  redraw();
};

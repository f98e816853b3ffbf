"use strict";
// What the page of a map knows, and its search: `atlas`. A row is a gene or a compound at one dose; a `one` is a gene or
// a compound with all its rows.
const atlas = (() => {
  const data = JSON.parse(document.getElementById("map-data").textContent);
  const kinds = {Int8Array, Uint8Array, Int16Array, Uint16Array, Uint32Array, Float32Array};
  const at = name => document.querySelector(name);
  const make = (name, text = "", more = {}) => Object.assign(document.createElement(name), {textContent: text, ...more});

  function array([kind, text]) {
    const raw = atob(text), bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    return new kinds[kind](bytes.buffer);
  }

  const {names, genes, top} = data, lower = names.map(name => name.toLowerCase());
  const start = array(data.start), rows = array(data.rows), scale = array(data.scale), width = rows.length / scale.length;
  const other = array(data.other), own = array(data.own), stored = array(data.cosine), arm = array(data.arm);
  const counts = array(data.counts), nulls = Object.fromEntries(Object.entries(data.nulls).map(([key, of]) => [key, array(of)]));
  const none = 2 ** (8 * other.BYTES_PER_ELEMENT) - 1;
  const known = new Map(), places = array(data.known.at), sources = array(data.known.of);
  places.forEach((place, i) => known.set(place, [...known.get(place) ?? [], data.known.sources[sources[i]]]));
  const owner = new Uint32Array(scale.length);
  for (let i = 0; i < names.length; i++) owner.fill(i, start[i], start[i + 1]);
  const listeners = [];
  let chosen = -1;

  const dose = row => row < genes ? null : data.dose[row - genes];
  const label = row => names[owner[row]] + (dose(row) === null ? "" : ` ${shown(dose(row))} µM`);
  const shown = value => value === null || value === undefined ? "" : String(+value.toPrecision(4));

  function cosine(i, j) {
    let sum = 0;
    for (let k = 0, a = i * width, b = j * width; k < width; k++) sum += rows[a + k] * rows[b + k];
    return sum * scale[i] * scale[j];
  }

  // The share of pairs of these two rows' kinds whose cosine is lower, between the kept quantiles; NaN without a null.
  function percentile(i, j, value) {
    const null_ = nulls[[i < genes ? 0 : 1, j < genes ? 0 : 1].sort().join("")], {shares} = data;
    if (!null_) return NaN;
    let low = 0, high = null_.length - 1;
    if (value <= null_[low]) return 0;
    if (value >= null_[high]) return 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (null_[middle] <= value) low = middle; else high = middle;
    }
    const gap = null_[high] - null_[low];
    return shares[low] + (gap ? (value - null_[low]) / gap : 0.5) * (shares[high] - shares[low]);
  }

  // Percentiles near 0 and 100 keep two digits of their distance to it.
  function percent(share) {
    const rest = Math.min(share, 1 - share), digits = rest > 0 ? Math.min(4, Math.max(1, -Math.floor(Math.log10(rest)) - 1)) : 4;
    return isNaN(share) ? "–" : (100 * share).toFixed(digits);
  }

  function neighbours(one) {
    const found = [];
    for (let k = 0; k < top; k++) {
      const place = one * top + k, row = other[place], mine = one < genes ? start[one] : own[(one - genes) * top + k];
      if (row === none) break;
      const value = stored[place] / 32767, a = one < genes ? arm[one] : 255;
      found.push({
        one: owner[row], name: names[owner[row]], kind: row < genes ? "gene" : "compound", dose: dose(row),
        own: dose(mine), cosine: value, percentile: percentile(mine, row, value),
        known: (known.get(place) ?? []).join(", "),
        arm: a !== 255 && row < genes && arm[row] === a ? data.arms[a] : "",
      });
    }
    return found;
  }

  function fill(table, made) {
    for (const head of table.querySelectorAll("thead th")) head.removeAttribute("aria-sort");
    const heads = [...table.querySelectorAll("thead th")].map(head => head.textContent.trim());
    table.tBodies[0].replaceChildren(...made.map(cells => {
      const tr = make("tr");
      cells.forEach(({text, value, number, click}, i) => {
        const cell = make(i ? "td" : "th");
        if (!i) cell.scope = "row";
        if (number) cell.className = "number";
        if (value !== undefined && value !== null) cell.dataset.value = value;
        if (i) cell.dataset.label = heads[i];
        if (click) {
          const button = make("button", text, {type: "button", className: "go"});
          button.addEventListener("click", click);
          cell.append(button);
        } else cell.textContent = text;
        tr.append(cell);
      });
      return tr;
    }));
  }

  function choose(one, focus = false) {
    chosen = one;
    const first = start[one], last = start[one + 1], total = [0, 0, 0];
    for (let row = first; row < last; row++)
      for (let k = 0; k < 3; k++) total[k] = k < 2 ? total[k] + counts[3 * row + k] : Math.max(total[k], counts[3 * row + k]);
    const several = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;
    at("#chosen").textContent = names[one];
    const what = one < genes ? several(total[0], "row") + " of the map, averaged" : several(last - first, "dose");
    const where = one < genes && arm[one] !== 255 ? `; on ${data.arms[arm[one]]}` : "";
    at("#about").textContent = `${one < genes ? "Gene" : "Compound"}: ${what}; ${several(total[1], "replicate")}, in up to `
      + `${several(total[2], "batch").replace("batchs", "batches")}${where}.`;
    const text = (row, key) => key === "cosine" ? row.cosine.toFixed(3) : key === "percentile" ? percent(row.percentile)
      : key === "dose" || key === "own" ? shown(row[key]) : row[key];
    fill(at(".neighbours table"), neighbours(one).map(row => data.columns.map(key => ({
      text: text(row, key), number: data.numbers.includes(key), value: data.numbers.includes(key) ? row[key] : undefined,
      click: key === "name" ? () => choose(row.one, true) : undefined,
    }))));
    curve(one);
    if (focus) at("#find").value = names[one];
    for (const listener of listeners) listener(one);
  }

  function curve(one) {
    const box = at("#curve"), of = data.curves[one];
    if (!box) return;
    box.hidden = !of;
    if (!of) return;
    const said = value => value === null || value === undefined ? "none" : value.toFixed(2);
    at("#along").textContent = (of.target ? `Cosine with ${of.target}, its nearest gene. ` : "") + "Length is the distance "
      + "from the origin, where controls are if these were centred. Spearman correlation with the dose: "
      + (of.target ? `cosine ${said(of.cosine_spearman)}, ` : "") + `length ${said(of.length_spearman)}.`;
    const cell = value => ({text: value === null || value === undefined ? "–" : shown(value), value, number: true});
    fill(at(".doses table"), of.dose.map((d, i) => [cell(d), cell(of.cosine?.[i]), cell(of.length[i])]));
  }

  function complete(text) {
    const begins = [], holds = [];
    for (let i = 0; i < names.length && begins.length < 12; i++) {
      const place = lower[i].indexOf(text);
      if (place === 0) begins.push(names[i]); else if (place > 0 && holds.length < 12) holds.push(names[i]);
    }
    return [...new Set([...begins, ...holds])].slice(0, 12);
  }

  function search(sure) {
    const text = at("#find").value.trim(), low = text.toLowerCase(), words = low ? complete(low) : [];
    at("#found").replaceChildren(...words.map(word => make("option", "", {value: word})));
    const exact = names.indexOf(text), found = exact < 0 && sure ? lower.indexOf(low) : exact;
    if (found >= 0 && found !== chosen) choose(found);
    at("output.found").textContent = !low || found >= 0 ? "" : words.length
      ? `${words.length > 11 ? "Among others: " : "Did you mean: "}${words.slice(0, 5).join(", ")}?`
      : `${text} is not a gene or compound of the map.`;
  }

  at("#find").addEventListener("input", () => search(false));
  at("#find").addEventListener("change", () => search(true));
  if (names.length) choose(0);

  return {data, array, rows, scale, width, owner, label, genes, start, names, cosine, percentile, percent, choose, nulls,
          chosen: () => chosen, listen: listener => listeners.push(listener)};
})();

(window.behaviours ??= {}).doses = doc => {
  const source = doc.get_model_by_name("curve");
  const show = one => {
    const of = atlas.data.curves[one];
    if (!of) return;
    const kept = of.dose.map((_, i) => i).filter(i => of.dose[i] > 0), pick = values => kept.map(i => values?.[i] ?? NaN);
    source.data = {dose: pick(of.dose), length: pick(of.length), cosine: pick(of.cosine)};
  };
  atlas.listen(show);
  show(atlas.chosen());
};

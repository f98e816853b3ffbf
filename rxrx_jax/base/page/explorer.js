"use strict";
// The behaviour of a map of points, `explorer.explore`: colours, search, selection, neighbours.
(window.behaviours ??= {}).explorer = (doc, group) => {
  const root = group.closest(".explorer"), at = name => root.querySelector(name);
  const data = JSON.parse(at(".data").textContent), source = doc.get_model_by_name("points");
  const about = data.headings.map((_, i) => source.data[`about${i}`]), n = about[0].length;
  const GREY = "#808080", FEW = 24;
  // Okabe and Ito's, then hues apart by the golden angle, readable on white and on black.
  const COLOURS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8E6BBF", "#8F8F00"];
  const palette = size => size <= COLOURS.length ? COLOURS
    : Array.from({length: size}, (_, i) => `hsl(${Math.round(i * 137.508) % 360} 65% ${42 + 14 * (i % 2)}%)`);
  const make = (name, text = "", more = {}) => Object.assign(document.createElement(name), {textContent: text, ...more});
  const choose = indices => { source.selected.indices = indices; };
  const where = test => Array.from({length: n}, (_, i) => i).filter(test);

  function dot(colour) {
    const made = make("i");
    made.style.background = colour;
    return made;
  }

  function recolour() {
    const {names, codes} = data.colourings[at(".colouring").value], colours = palette(names.length);
    data.sets.forEach((_, i) => {
      source.data[`colour${i}`] = codes[i % codes.length].map(code => code < 0 ? GREY : colours[code]);
    });
    source.change.emit();
    const legend = at(".groups");
    legend.replaceChildren();
    if (names.length > FEW) legend.textContent = `${names.length} groups; the pointer and the search tell which is which.`;
    else names.forEach((name, code) => {
      const button = make("button", "", {type: "button"});
      button.append(dot(colours[code]), name);
      button.addEventListener("click", () => choose(where(i => codes.some(of => of[i] === code))));
      legend.append(button);
    });
  }

  const unpack = (text, kind) => new kind(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer);
  const nearest = Object.entries(data.neighbours)
    .map(([of, [k, ids, near]]) => [of, k, unpack(ids, Int32Array), unpack(near, Int16Array)]);

  function card(i, near) {
    const made = make("li"), picture = source.data.picture?.[i];
    if (picture) made.append(make("img", "", {src: `data:image/webp;base64,${picture}`, width: 72, height: 72, alt: ""}));
    about.forEach((values, j) => made.append(make("div", j ? `${data.headings[j]}: ${values[i]}` : values[i])));
    if (near !== undefined) made.append(make("div", `cosine ${near}`));
    return made;
  }

  function tell() {
    const chosen = [...source.selected.indices], box = at(".chosen");
    box.replaceChildren();
    if (!chosen.length) return;
    const row = (title, cards) => {
      const ol = make("ol");
      ol.append(...cards);
      box.append(make("h4", title), ol);
    };
    const more = chosen.length > 12 ? ", of which the first 12" : "";
    row(`${chosen.length} of ${n} selected${more}`, chosen.slice(0, 12).map(i => card(i)));
    if (chosen.length > 1) return;
    for (const [of, k, ids, thousandths] of nearest) {
      const from = k * chosen[0], pairs = [...ids.slice(from, from + k)].map((i, j) => [i, thousandths[from + j] / 1000]);
      row(`Nearest in ${of}`, pairs.filter(([i]) => i >= 0).map(pair => card(...pair)));
    }
  }

  at(".colouring").addEventListener("change", recolour);
  at(".search").addEventListener("input", event => {
    const text = event.target.value.toLowerCase(), values = about[data.search].map(value => value.toLowerCase());
    const exact = values.includes(text);
    choose(text ? where(i => exact ? values[i] === text : values[i].includes(text)) : []);
  });
  at(".clear").addEventListener("click", () => { at(".search").value = ""; choose([]); });
  source.selected.properties.indices.change.connect(tell);
  recolour();
};

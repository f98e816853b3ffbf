"use strict";
// Tables: a heading sorts, a field filters.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0], key = (row, i) => row.cells[i].dataset.value ?? row.cells[i].textContent.trim();
  table.querySelectorAll("thead th").forEach((head, i) => head.querySelector("button")?.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    const compare = (a, b) => {
      const [x, y] = [key(a, i), key(b, i)], [p, q] = [x, y].map(text => parseFloat(text.replaceAll(",", "")));
      if (isNaN(p) !== isNaN(q)) return isNaN(p) ? 1 : -1;  // what is no number comes last, up or down
      return (down ? -1 : 1) * (isNaN(p) ? x.localeCompare(y, "en", {numeric: true}) : p - q);
    };
    for (const other of table.querySelectorAll("thead th")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...[...body.rows].sort(compare));
  }));
  const controls = table.parentElement.previousElementSibling, field = controls?.querySelector(".filter");
  field?.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(" ");
    for (const row of body.rows) row.hidden = !words.every(word => row.textContent.toLowerCase().includes(word));
    const shown = [...body.rows].filter(row => !row.hidden).length;
    controls.querySelector("output").textContent = `${shown} of ${body.rows.length} rows`;
  });
}

// Figures: a group is drawn when it comes into view, in the colours of the theme.
const behaviours = window.behaviours ?? {}, drawn = [], dark = matchMedia("(prefers-color-scheme: dark)");
const json = element => JSON.parse(element.textContent);

function paint(doc) {
  const style = getComputedStyle(document.documentElement), colour = name => style.getPropertyValue(name).trim();
  const of = {"text_color": "--fg", "grid_line_color": "--line", "axis_line_color": "--muted", "tick_line_color": "--muted",
              "separator_line_color": "--line"};
  for (const model of doc.all_models)
    for (const {attr} of model)
      for (const [ending, name] of Object.entries(of))
        if (attr.endsWith(ending) && model[attr] !== null) model[attr] = colour(name);
}

async function draw(group) {
  const {document: doc, roots} = json(group.querySelector("script")), number = drawn.length;
  drawn.push(null);
  const places = {};
  for (const [, id] of roots) {
    const place = group.querySelector(`[data-root="${id}"]`);
    place.id = `figure-${number}-${id}`;
    places[id] = place.id;
  }
  const [views] = await Bokeh.embed.embed_items({one: doc}, [{docid: "one", roots: places, root_ids: Object.keys(places)}]);
  drawn[number] = views.roots[0].model.document;
  paint(drawn[number]);
  behaviours[group.dataset.name]?.(drawn[number], group);
  group.dataset.drawn = "yes";
}

const seen = new IntersectionObserver(entries => {
  for (const {isIntersecting, target} of entries)
    if (isIntersecting) {
      seen.unobserve(target);
      draw(target);
    }
}, {rootMargin: "400px"});
for (const group of document.querySelectorAll(".figures")) seen.observe(group);
dark.addEventListener("change", () => drawn.forEach(doc => doc && paint(doc)));

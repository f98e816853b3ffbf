"use strict";
// The behaviour of the plate map: its quantity and experiment are chosen.
(window.behaviours ??= {}).plates = (doc, group) => {
  const root = group.closest(".plates"), {values, palettes} = JSON.parse(root.querySelector(".data").textContent);
  const quantity = root.querySelector(".quantity"), experiment = root.querySelector(".experiment");
  const source = doc.get_model_by_name("plate"), mapper = doc.get_model_by_name("mapper");

  function show() {
    const intensity = quantity.value.startsWith("intensity");
    mapper.setv({palette: palettes[+intensity], low: intensity ? -2 : 0, high: intensity ? 2 : 1});
    source.data.value = values[quantity.value][experiment.value].map(value => value ?? NaN);
    source.change.emit();
  }

  function offer() {
    const before = experiment.value, names = Object.keys(values[quantity.value]);
    experiment.replaceChildren(...names.map(name => new Option(name)));
    if (names.includes(before)) experiment.value = before;
    show();
  }

  quantity.addEventListener("change", offer);
  experiment.addEventListener("change", show);
  offer();
};

"use strict";
// Sliders choose a preference; the objects that were made for it are shown, and ringed in the figures.
(() => {
  const {names, more, objects, pictures, preferences} = JSON.parse(document.getElementById("front-data").textContent);
  const sliders = [...document.querySelectorAll(".weight")], keys = [...names, ...more];
  const make = (name, text = "", ...inside) => {
    const made = Object.assign(document.createElement(name), {textContent: text});
    made.append(...inside);
    return made;
  };
  const rounded = value => value === null || isNaN(value) ? "–" : value.toFixed(3);
  let ring = () => {};

  function weights() {
    const found = sliders.map(slider => +slider.value), sum = found.reduce((a, b) => a + b, 0);
    return found.map(value => sum ? value / sum : 1 / found.length);
  }

  async function draw(picture, packed) {
    const bytes = new Blob([Uint8Array.from(atob(packed), letter => letter.charCodeAt(0))]);
    const svg = await new Response(bytes.stream().pipeThrough(new DecompressionStream("gzip"))).text();
    picture.src = "data:image/svg+xml," + encodeURIComponent(svg);
  }

  function card(i) {
    const [name, ...values] = objects[i], made = make("figure");
    if (pictures.length) {
      const picture = make("img");
      draw(picture, pictures[i]);
      picture.alt = "structure of " + name;
      picture.width = 220;
      picture.height = 150;
      made.append(picture);
    }
    const list = make("dl");
    values.forEach((value, k) => list.append(make("dt", keys[k]), make("dd", rounded(value))));
    made.append(make("figcaption", "", make("code", name), list));
    return made;
  }

  function show() {
    const w = weights();
    sliders.forEach((slider, i) => slider.nextElementSibling.textContent = w[i].toFixed(2));
    const far = ({w: other}) => other.reduce((sum, value, i) => sum + (value - w[i]) ** 2, 0);
    const nearest = preferences.reduce((best, one) => far(one) < far(best) ? one : best);
    const said = nearest.w.map((value, i) => `${names[i]} ${value.toFixed(2)}`).join(", ");
    document.getElementById("nearest").textContent = `Nearest preference: ${said}.`;
    document.getElementById("made").replaceChildren(...nearest.best.map(card));
    ring = source => {
      const columns = Object.fromEntries(names.map((_, k) => [`o${k}`, nearest.best.map(i => objects[i][k + 1])]));
      source.data = {...columns, name: nearest.best.map(i => objects[i][0])};
    };
    for (const doc of window.Bokeh?.documents ?? []) {
      const source = doc.get_model_by_name("chosen");
      if (source) ring(source);
    }
  }

  for (const slider of sliders) slider.addEventListener("input", show);
  (window.behaviours ??= {}).front = doc => ring(doc.get_model_by_name("chosen"));
  if (preferences.length) show();
})();

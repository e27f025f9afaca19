// Draws the figures stored on the page, in the colours of the reader's scheme, and again for print.
(function () {
  "use strict";
  const twins = JSON.parse(document.getElementById("twins").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const boxes = Array.from(document.querySelectorAll("[data-figure]"));
  const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
  const PRINT_WIDTH = 690; // px: the text width of an A4 page

  function themed(value) {
    if (typeof value === "string") return Object.hasOwn(twins, value) ? twins[value] : value;
    if (Array.isArray(value)) return value.map(themed);
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, themed(inner)]));
  }

  function draw(box, isDark, width) {
    const stored = JSON.parse(document.getElementById("data-" + box.dataset.figure).textContent);
    const figure = isDark ? themed(stored) : stored;
    const layout = width ? { ...figure.layout, width: width } : { ...figure.layout, autosize: true };
    box.style.minHeight = layout.height + "px"; // Plotly forgets the height when the window changes its width
    return Plotly.react(box, figure.data, layout, config);
  }

  function drawAll() { return Promise.all(boxes.map((box) => draw(box, dark.matches))); }

  drawAll().then(() => { document.documentElement.dataset.drawn = "yes"; });
  dark.addEventListener("change", drawAll);

  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = Array.from(document.querySelectorAll("details:not([open])"));
    opened.forEach((details) => { details.open = true; });
    boxes.forEach((box) => { draw(box, false, PRINT_WIDTH); });
  });
  window.addEventListener("afterprint", () => {
    opened.forEach((details) => { details.open = false; });
    drawAll();
  });
})();

"use strict";
/* Tables of measurements sort when the head of a column is clicked; a second click turns the order. */
function valueOf(cell) {
  const text = cell.textContent.trim().replace(/,/g, "").replace(/^(-?)\./, "$10.");
  const number = parseFloat(text);
  return Number.isNaN(number) ? text.toLowerCase() : number;
}
function compare(a, b, falling) {
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1; // words come last
  return (a < b ? -1 : a > b ? 1 : 0) * (falling ? -1 : 1);
}
function makeSortable(table) {
  const body = table.tBodies[0];
  if (!body || body.rows.length < 3) return;
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    head.tabIndex = 0;
    head.style.cursor = "pointer";
    head.setAttribute("aria-sort", "none");
    const sort = () => {
      const falling = head.getAttribute("aria-sort") === "ascending";
      const rows = [...body.rows];
      const value = row => valueOf(row.cells[column]);
      rows.sort((x, y) => compare(value(x), value(y), falling));
      for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      body.append(...rows);
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
  });
}
if (location.pathname.includes("/bench/")) {
  document.querySelectorAll("article table").forEach(makeSortable);
}

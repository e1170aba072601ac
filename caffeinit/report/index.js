"use strict";
// Headings become buttons that sort the rows; without this script the page says the same.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const value = (row, i) => {
    const text = row.cells[i]?.dataset.v ?? ""; // a reason takes the place of all cells behind it
    return text !== "" && !Number.isNaN(Number(text)) ? Number(text) : text;
  };
  const order = (a, b) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  };
  [...table.tHead.rows[0].cells].forEach((head, i) => {
    if (body.rows.length < 2 || ![...body.rows].some((row) => row.cells[i]?.dataset.v !== undefined)) return;
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const keyed = [...body.rows].map((row) => [value(row, i), row]);
      keyed.sort((a, b) => {
        const empty = a[0] === "" || b[0] === "";
        return up || empty ? order(a[0], b[0]) : order(b[0], a[0]);
      });
      body.append(...keyed.map(([, row]) => row));
    });
  });
}

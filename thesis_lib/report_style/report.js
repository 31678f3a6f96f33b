// Small touches; the page is complete without them.
"use strict";

// The entry of the contents for the section on screen.
const links = new Map();
for (const link of document.querySelectorAll("#contents a")) links.set(link.getAttribute("href").slice(1), link);
const watcher = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const link of links.values()) link.classList.remove("here");
      const link = links.get(entry.target.id);
      link.classList.add("here");
      const nav = document.getElementById("contents");
      if (getComputedStyle(nav).position === "fixed") {
        const middle = link.offsetTop - nav.clientHeight / 2;
        if (Math.abs(nav.scrollTop - middle) > nav.clientHeight / 2) nav.scrollTop = middle;
      }
    }
  },
  { rootMargin: "0px 0px -75% 0px" },
);
for (const id of links.keys()) {
  const place = document.getElementById(id);
  if (place) watcher.observe(place);
}

// A figure at the size of the screen: click, or Enter on it.
const dialog = document.createElement("dialog");
document.body.append(dialog);
dialog.addEventListener("click", () => dialog.close());
const enlarge = (box) => {
  dialog.replaceChildren(box.querySelector("img").cloneNode());
  dialog.firstChild.removeAttribute("style");
  dialog.showModal();
};
for (const box of document.querySelectorAll(".zoom")) {
  box.addEventListener("click", () => enlarge(box));
  box.addEventListener("keydown", (event) => { if (event.key === "Enter") enlarge(box); });
}

// Rows in the order of a column: click on its header; a row of means stays last.
const value = (row, i) => {
  const text = row.cells[i].textContent.trim();
  const number = parseFloat(text.replace("−", "-").replace("< ", ""));
  return Number.isNaN(number) ? text : number;
};
for (const table of document.querySelectorAll("figure.table table")) {
  const body = table.tBodies[0];
  if (!table.tHead || body.rows.length < 3 || table.querySelector("[rowspan], thead tr + tr")) continue;
  [...table.tHead.rows[0].cells].forEach((head, i) => {
    head.dataset.sort = "";
    head.title = "Sort by this column";
    head.addEventListener("click", () => {
      const down = head.dataset.sort !== "down";
      for (const other of table.tHead.rows[0].cells) other.dataset.sort = "";
      head.dataset.sort = down ? "down" : "up";
      const rows = [...body.rows].filter((row) => !row.classList.contains("mean"));
      const means = [...body.rows].filter((row) => row.classList.contains("mean"));
      const order = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
      rows.sort((a, b) => {
        const [x, y] = [value(a, i), value(b, i)];
        if (typeof x !== typeof y) return typeof x === "number" ? -1 : 1;
        return down ? order(y, x) : order(x, y);
      });
      body.append(...rows, ...means);
    });
  });
}

// The key C shows all code, or hides it again.
document.addEventListener("keydown", (event) => {
  if (event.key !== "c" || event.ctrlKey || event.metaKey || event.target.matches("input, textarea")) return;
  const folds = [...document.querySelectorAll("details.code")];
  const open = folds.some((fold) => !fold.open);
  for (const fold of folds) fold.open = open;
});

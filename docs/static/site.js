// Narrow screens show a table's rows as cards, whose cells say their column.
document.addEventListener("DOMContentLoaded", () => {
  // Long names in tables break between their words.
  for (const name of document.querySelectorAll("article td code .pre")) {
    const words = name.textContent.split(/(?<=[._(=,/])(?=\w)|(?<=[a-z])(?=[A-Z])/);
    name.replaceChildren(...words.flatMap((word, n) => (n ? [document.createElement("wbr"), word] : [word])));
  }
  for (const table of document.querySelectorAll("article table")) {
    const columns = [...table.querySelectorAll("thead th")].map((th) => th.textContent.trim());
    if (columns.length < 3) continue;
    table.classList.add("cards");
    if (columns.length > 7) table.classList.add("dense");
    for (const row of table.querySelectorAll("tbody tr")) {
      [...row.children].forEach((cell, n) => {
        cell.dataset.column = columns[n] || "";
        if (n === 0) cell.classList.add("whole");
        if (cell.childNodes.length > 1 || cell.firstChild?.nodeType === Node.TEXT_NODE) {
          const box = document.createElement("div");
          box.append(...cell.childNodes);
          cell.append(box);
        }
      });
    }
  }
});

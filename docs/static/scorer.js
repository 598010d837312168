// Who types the name of a function finds the function first, then its layers, then pages.
var Scorer = {
  score: (result) => {
    const [, title, , , score] = result;
    const words = (new URLSearchParams(window.location.search).get("q") || "").trim().toLowerCase();
    const name = title.toLowerCase().replace(/\(.*/, "").trim();
    if (name === words || name === `convlab.${words}`) return score + 200;
    if (/^convlab\.(nnx|linen)\./.test(name) && name.endsWith(`.${words}`)) return score + 100;
    return score;
  },
  objNameMatch: 40,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};

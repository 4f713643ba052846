// The answer browser: filters the embedded items and shows them side by side.
// A model's words are only ever set as text, never as markup.
"use strict";
(() => {
  const PAGE_SIZE = 20;
  const data = JSON.parse(document.getElementById("items-data").textContent);
  const form = document.querySelector(".filters");
  const list = document.querySelector(".items");
  const found = document.querySelector(".found");
  const more = document.querySelector(".more");
  let matching = [];

  const element = (name, className, ...children) => {
    const node = document.createElement(name);
    if (className) node.className = className;
    node.append(...children);
    return node;
  };

  // What became of an item: the score of the baseline (a) beside the chosen model's (b).
  const OUTCOMES = [
    ["all", "all", () => true],
    ["changed", "changed", (a, b) => a !== null && b !== null && a !== b],
    ["fixed", "fixed", (a, b, sign) => a !== null && b !== null && (b - a) * sign > 0],
    ["broken", "broken", (a, b, sign) => a !== null && b !== null && (b - a) * sign < 0],
    ["wrong", "both wrong", (a, b, sign, binary) => binary && a === 0 && b === 0],
    ["right", "both right", (a, b, sign, binary) => binary && a === 1 && b === 1],
  ];
  const ALONE = [
    ["all", "all", () => true],
    ["right", "right", (a, b, sign, binary) => binary && b === 1],
    ["wrong", "wrong", (a, b, sign, binary) => binary && b === 0],
  ];
  const others = data.models.filter((model) => model !== data.baseline);
  const outcomes = others.length ? OUTCOMES : ALONE;

  const benchmark = () => data.benchmarks[Number(form.benchmark.value)];
  const model = () => form.model.value || data.baseline;
  const scoreOf = (item, name) => item.answers[name]?.score ?? null;

  const isOutcome = (item, test) =>
    test(scoreOf(item, data.baseline), scoreOf(item, model()), benchmark().higher_is_better ? 1 : -1, benchmark().binary);

  const shownModels = (item) => [...new Set([data.baseline, model()])].filter((name) => name in item.answers);

  const contains = (item, needle) =>
    [item.id, ...item.question, ...item.reference, ...shownModels(item).flatMap((name) => item.answers[name].texts)]
      .some((text) => text.toLowerCase().includes(needle));

  // Text with every occurrence of the searched words marked.
  const marked = (text, needle) => {
    if (!needle) return [text];
    const parts = [];
    const lower = text.toLowerCase();
    let from = 0;
    for (let at = lower.indexOf(needle); at >= 0; at = lower.indexOf(needle, from)) {
      parts.push(text.slice(from, at), element("mark", "", text.slice(at, at + needle.length)));
      from = at + needle.length;
    }
    return [...parts, text.slice(from)];
  };

  // Text with indented lines is code, or close to it.
  const style = (text) => (/^( {4}|\t)/m.test(text) ? "text code" : "text");

  const texts = (values, needle) =>
    (values.length ? values : ["(empty)"]).map((text) => element("p", style(text), ...marked(text || "(empty)", needle)));

  const verdict = (score) => {
    if (score === null) return element("span", "", "no score");
    if (!benchmark().binary) return element("span", "", `${benchmark().metric} ${Number(score.toFixed(3))}`);
    return score === 1 ? element("span", "right", "✓ right") : element("span", "wrong", "✗ wrong");
  };

  const answerBlock = (item, name, needle) => {
    const answer = item.answers[name];
    const cut = answer.details.finish_reason === "length" ? " (cut off)" : "";
    const heading = element("h4", "", name + cut, verdict(answer.score));
    const block = element("div", "answer", heading, ...texts(answer.texts, needle));
    const details = Object.entries(answer.details);
    if (details.length) {
      const rows = details.map(([key, value]) => element("div", "", element("dt", "", key), element("dd", "text", value)));
      block.append(element("details", "", element("summary", "", "details"), element("dl", "", ...rows)));
    }
    return block;
  };

  const itemCard = (item, needle) => {
    const outcome = outcomes.slice(2).find(([, , test]) => isOutcome(item, test));
    const header = element("header", "", element("span", "", item.id), element("span", "", outcome ? outcome[1] : ""));
    const card = element("article", "item", header, element("div", "question", ...texts(item.question, needle)));
    card.append(element("div", "answers", ...shownModels(item).map((name) => answerBlock(item, name, needle))));
    if (item.reference.length) {
      const reference = element("div", "reference", ...texts(item.reference, needle));
      card.append(element("details", "", element("summary", "", "reference"), reference));
    }
    return card;
  };

  const needle = () => form.text.value.trim().toLowerCase();

  const showMore = () => {
    const from = list.childElementCount;
    list.append(...matching.slice(from, from + PAGE_SIZE).map((item) => itemCard(item, needle())));
    more.hidden = list.childElementCount >= matching.length;
  };

  const update = () => {
    const [, , test] = outcomes.find(([key]) => key === form.outcome.value);
    const items = benchmark().items;
    matching = items.filter((item) => isOutcome(item, test) && contains(item, needle()));
    const rest = benchmark().num_items - items.length;
    const left = rest ? `; ${rest} more on which the models mostly agree are in items.jsonl` : "";
    found.textContent = `${matching.length} of ${items.length} items${left}`;
    list.replaceChildren();
    showMore();
  };

  const options = (select, pairs) => {
    select.replaceChildren(...pairs.map(([value, label]) => new Option(label, value)));
  };

  // Models that answered the chosen benchmark; a choice of one needs no control.
  const offerModels = () => {
    const present = others.filter((name) => benchmark().items.some((item) => name in item.answers));
    options(form.model, present.map((name) => [name, name]));
    form.querySelector(".model").hidden = present.length < 2;
  };

  const offerOutcomes = () => {
    form.querySelector(".outcomes").append(...outcomes.map(([key, label], index) => {
      const input = element("input");
      Object.assign(input, { type: "radio", name: "outcome", value: key, checked: index === 0 });
      return element("label", "", input, element("span", "", label));
    }));
  };

  if (!data.benchmarks.length) {
    found.textContent = "No benchmark was scored.";
    return;
  }
  options(form.benchmark, data.benchmarks.map(({ name }, index) => [index, name]));
  offerOutcomes();
  offerModels();
  form.benchmark.addEventListener("change", offerModels);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", update);
  more.addEventListener("click", showMore);
  // Numbers of changed items in the tables lead to these items.
  for (const link of document.querySelectorAll("a[data-outcome]")) {
    link.addEventListener("click", () => {
      form.benchmark.value = data.benchmarks.findIndex(({ name }) => name === link.dataset.benchmark);
      offerModels();
      form.model.value = link.dataset.model;
      form.outcome.value = link.dataset.outcome;
      form.text.value = "";
      update();
    });
  }
  form.hidden = false;
  update();
})();

"use strict";
// The browser of single cases. Texts stand once in DATA.texts; a row holds places in it. Only what is looked at is drawn.
const STEP = 25;
const ROW = { run: 0, kind: 1, label: 2, case: 3, prompt: 4, expected: 5, old: 6, base: 7, text: 8, fired: 9, cls: 10, by: 11, why: 12, sure: 13, limit: 14, verdict: 15, right: 16 };
const VERDICTS = ["miss", "pass", "unscored"];

// The numbers of the rows that fit; `wanted`: {data, run, kind, verdict, search}, "" for any.
function fitting(data, wanted) {
  const words = wanted.search.toLowerCase().split(/\s+/).filter(Boolean);
  data.lower = data.lower || data.texts.map((text) => text.toLowerCase());
  // each word is looked for once in each text, not in each row
  const hits = words.map((word) => data.lower.map((text) => text.includes(word)));
  const looked = [ROW.case, ROW.prompt, ROW.expected, ROW.base, ROW.text, ROW.why];
  const out = [];
  data.rows.forEach((row, i) => {
    const run = data.runs[row[ROW.run]];
    if (wanted.data && run.data !== wanted.data) return;
    if (wanted.run && run.name !== wanted.run) return;
    if (wanted.verdict && VERDICTS[row[ROW.verdict]] !== wanted.verdict) return;
    if (wanted.kind) {
      const kind = data.texts[row[ROW.kind]];
      if (kind !== wanted.kind && `${kind}: ${data.texts[row[ROW.label]]}` !== wanted.kind) return;
    }
    if (hits.every((hit) => looked.some((column) => hit[row[column]]))) out.push(i);
  });
  return out;
}

// What the route says, as a sentence.
function routed(data, row) {
  const text = (column) => data.texts[row[column]];
  if (text(ROW.fired) === "-") return "no router: the edits are in the weights, or there are none";
  let said = text(ROW.fired) ? `edit ${text(ROW.fired)} fired` : "no edit fired";
  if (row[ROW.right] === 0 && text(ROW.fired)) said += " (not the right one)";
  if (row[ROW.sure] !== null) said += `, probability ${row[ROW.sure]}`;
  if (row[ROW.limit] !== null) said += ` against ${row[ROW.limit]}`;
  for (const part of [text(ROW.cls), text(ROW.by)]) if (part) said += `, ${part}`;
  return text(ROW.why) ? `${said}: ${text(ROW.why)}` : said;
}

function made(tag, text, name) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text; // never as HTML: answers hold anything
  if (name) node.className = name;
  return node;
}

function card(data, row) {
  const text = (column) => data.texts[row[column]];
  const run = data.runs[row[ROW.run]];
  const verdict = VERDICTS[row[ROW.verdict]];
  const node = made("article", undefined, verdict);
  const head = made("header");
  head.append(made("span", verdict, { miss: "bad", pass: "good" }[verdict]));
  const kind = text(ROW.label) ? `${text(ROW.kind)}: ${text(ROW.label)}` : text(ROW.kind);
  for (const part of [run.data, run.name, run.how, kind, `case ${text(ROW.case)}`]) head.append(made("span", part));
  const list = made("dl");
  const lines = [["expected", text(ROW.expected)], ["before the edit", text(ROW.old)], ["base's answer", text(ROW.base)], ["edited answer", text(ROW.text)], ["route", routed(data, row)]];
  for (const [name, value] of lines) if (value || name.endsWith("answer")) list.append(made("dt", name), made("dd", value || "(empty)"));
  node.append(head, made("h4", text(ROW.prompt)), list);
  return node;
}

function start() {
  const data = JSON.parse(document.getElementById("answers").textContent);
  const form = document.querySelector("#browser form");
  const cards = document.getElementById("cards");
  const count = document.getElementById("count");
  const more = document.getElementById("more");
  const fill = (name, values) => values.forEach((value) => form.elements[name].append(new Option(value, value)));
  fill("data", [...new Set(data.runs.map((run) => run.data))]);
  fill("run", [...new Set(data.runs.map((run) => run.name))]);
  const kinds = new Set();
  for (const row of data.rows) {
    kinds.add(data.texts[row[ROW.kind]]);
    if (row[ROW.label] && data.texts[row[ROW.label]]) kinds.add(`${data.texts[row[ROW.kind]]}: ${data.texts[row[ROW.label]]}`);
  }
  fill("kind", [...kinds].sort());
  let found = [];
  let drawn = 0;
  const draw = () => {
    const part = document.createDocumentFragment();
    for (const i of found.slice(drawn, drawn + STEP)) part.append(card(data, data.rows[i]));
    drawn = Math.min(drawn + STEP, found.length);
    cards.append(part);
    count.textContent = `${found.length.toLocaleString("en")} of ${data.rows.length.toLocaleString("en")} answers, ${drawn.toLocaleString("en")} shown`;
    more.hidden = drawn >= found.length;
  };
  const again = () => {
    const wanted = Object.fromEntries(["data", "run", "kind", "verdict", "search"].map((name) => [name, form.elements[name].value]));
    found = fitting(data, wanted);
    drawn = 0;
    cards.replaceChildren();
    draw();
  };
  let timer = 0;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(again, 120); });
  more.addEventListener("click", draw);
  again();
}

if (typeof document !== "undefined") {
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => { one.open = true; }));
  if (document.getElementById("answers")) start();
}
if (typeof module !== "undefined") module.exports = { fitting, routed, ROW };

// The dashboard: machines, the one looked at, its alarms, and the models.

import { clock, drawScores, drawSpectrogram } from "./draw.js";

const at = (id) => document.getElementById(id);
const shown = { machine: null, latest: null, alarms: "", socket: null, wait: 500 };

async function ask(path, how) {
  const answer = await fetch(path, how);
  if (answer.status === 401) { location.href = "/login"; throw new Error("not logged in"); }
  if (!answer.ok) throw new Error((await answer.json()).error);
  return answer.json();
}

function element(kind, facts = {}, ...children) {
  const made = Object.assign(document.createElement(kind), facts);
  made.append(...children);
  return made;
}

const figure = (value) => value === null || value === undefined ? "–" : Number(value).toPrecision(3);

// Machines -----------------------------------------------------------------------------------------------

function showMachines(machines) {
  at("nothing").hidden = machines.length > 0;
  for (const machine of machines) {
    let card = document.querySelector(`.machine[data-id="${machine.id}"]`);
    if (!card) {
      card = element("button", { onclick: () => choose(machine.id) });
      card.dataset.id = machine.id;
      at("machines").append(card);
    }
    card.className = `machine ${machine.state.replace(" ", "-")}`;
    card.setAttribute("aria-pressed", machine.id === shown.machine);
    const open = machine.unacknowledged ? ` · ${machine.unacknowledged} to look at` : "";
    card.replaceChildren(
      element("strong", { textContent: machine.name }),
      element("span", { className: `state ${machine.state.replace(" ", "-")}`, textContent: machine.state }),
      element("p", { className: "quiet", textContent: `score ${figure(machine.now?.score)}, threshold ${figure(machine.facts.threshold)}${open}` }),
    );
    if (shown.machine === null) choose(machine.id);
    if (machine.id === shown.machine) showMachine(machine);
  }
}

function choose(id) {
  shown.machine = id;
  shown.latest = null;
  shown.alarms = "";
  at("alarms").replaceChildren();
  at("machine").hidden = false;
  if (shown.socket?.readyState === WebSocket.OPEN) shown.socket.send(String(id));
  refresh();
}

function showMachine(machine) {
  at("name").textContent = machine.name;
  at("state").textContent = machine.gap ? `${machine.state}: ${machine.gap}` : machine.state;
  at("state").className = `state ${machine.state.replace(" ", "-")}`;
  const facts = machine.facts;
  at("facts").textContent = `${facts.detector} (${machine.model}), ${facts.window} s every ${facts.hop} s, ${facts.promise ?? ""}`;
  const now = machine.now;
  at("now").textContent = now
    ? `${clock(now.time)}  score ${figure(now.score)}, p-value ${figure(now.p_value)}${now.error ? `, ${now.error}` : ""}, latency ${Math.round(1000 * now.latency)} ms, real-time factor ${figure(now.real_time_factor)}. The last ${facts.window} s, up to ${(facts.band_hertz.at(-1) / 1000).toFixed(1)} kHz.`
    : "nothing yet";
}

async function refresh() {
  const id = shown.machine;
  if (id === null || at("machines-page").hidden) return;
  const span = Number(at("span").value);
  const alarms = await ask(`/v1/alarms?machine=${id}`);
  let until = Date.now() / 1000;
  const heard = shown.heard?.[id];
  if (heard && (heard > until || until - heard > span)) until = heard + span * 0.02; // a recording of another time
  const told = await ask(`/v1/machines/${id}/scores?since=${until - span}`);
  if (id !== shown.machine) return;
  drawScores(at("chart"), told, alarms, until - span, until);
  showAlarms(alarms);
}

function showLive() {
  if (shown.latest) drawSpectrogram(at("live"), shown.latest.logmel, shown.latest.map, at("overlay").checked);
}

// Alarms -------------------------------------------------------------------------------------------------

function showAlarms(alarms) {
  const state = JSON.stringify(alarms);
  if (state === shown.alarms) return;
  shown.alarms = state;
  if (!alarms.length) { at("alarms").replaceChildren(element("p", { className: "quiet", textContent: "None." })); return; }
  // What somebody listens to or writes stays where it is.
  const there = new Map([...at("alarms").querySelectorAll(".one")].map((one) => [one.dataset.id, one]));
  at("alarms").replaceChildren(...alarms.slice(0, 50).map((alarm) => {
    const old = there.get(String(alarm.id));
    const state = JSON.stringify(alarm);
    if (old && old.dataset.state === state) return old;
    const made = oneAlarm(alarm);
    made.dataset.state = state;
    const audio = old?.querySelector("audio"), canvas = old?.querySelector("canvas"), note = old?.querySelector("input");
    if (audio && made.querySelector("audio")) made.querySelector("audio").replaceWith(audio);
    if (canvas) made.querySelector("canvas").replaceWith(canvas);
    if (note) made.querySelector("input").value = note.value;
    return made;
  }));
}

function oneAlarm(alarm) {
  const one = element("article", { className: alarm.acknowledged ? "one" : "one new" });
  one.dataset.id = alarm.id;
  const lasted = alarm.ended ? `${Math.round(alarm.ended - alarm.raised)} s` : "still on";
  const badge = alarm.label || (alarm.acknowledged ? "acknowledged" : "new");
  one.append(element("div", { className: "row" },
    element("strong", { textContent: `${clock(alarm.raised, true)}` }),
    element("span", { className: "quiet", textContent: `${alarm.rule}, ${lasted}, score ${figure(alarm.score)}, p-value ${figure(alarm.p_value)}` }),
    element("span", { className: "badge", textContent: badge })));
  one.append(element("p", { textContent: alarm.message }));
  const canvas = element("canvas", { className: "spectrogram", hidden: true });
  const audio = alarm.clip ? element("audio", { controls: true, preload: "none", src: `/v1/alarms/${alarm.id}/clip` }) : element("span", { className: "quiet", textContent: "its sound was not kept" });
  one.append(audio, canvas);
  const note = element("input", { type: "text", placeholder: "note", maxLength: 2000 });
  note.setAttribute("aria-label", "note");
  const say = (kind, text, strong) => element("button", { textContent: text, className: strong ? "strong" : "", onclick: () => remark(alarm.id, kind, note) });
  one.append(element("div", { className: "row" },
    element("button", { textContent: "Show", onclick: () => showMap(alarm.id, canvas) }),
    ...(alarm.acknowledged ? [] : [say("acknowledged", "Acknowledge", true)]),
    say("confirmed", "Confirmed"), say("false alarm", "False alarm"), note, say("note", "Add note")));
  for (const said of alarm.remarks) one.append(element("p", { className: "quiet", textContent: `${clock(said.time, true)} ${said.author}: ${said.kind}${said.note ? ` – ${said.note}` : ""}` }));
  return one;
}

async function showMap(id, canvas) {
  canvas.hidden = !canvas.hidden;
  if (canvas.hidden) return;
  const alarm = await ask(`/v1/alarms/${id}`);
  drawSpectrogram(canvas, alarm.logmel, alarm.map, true);
}

async function remark(id, kind, note) {
  await ask(`/v1/alarms/${id}/remarks`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ kind, note: note.value }) });
  note.value = "";
  await refresh();
}

// Models -------------------------------------------------------------------------------------------------

async function showModels() {
  const models = await ask("/v1/models");
  const pages = await Promise.all(models.map((model) => ask(`/v1/models/${encodeURIComponent(model.name)}`)));
  at("models").replaceChildren(...pages.map((model) => {
    const facts = model.provenance;
    const rows = [
      ["detector", `${model.detector} (${model.paper})`], ["machines", model.machines.join(", ")],
      ["threshold", figure(model.threshold)], ["what it promises", model.promise],
      ["calibration", `${model.n_calibration_clips} healthy clips, scores ${figure(model.calibration_scores[0])} to ${figure(model.calibration_scores.at(-1))}`],
      ["learnt from", `${facts.n_training_clips ?? "?"} clips of ${model.clip_seconds ?? "?"} s`], ["date", facts.date ?? ""], ["seed", facts.seed ?? ""],
      ["recalibrated", (facts.recalibrations ?? []).map((one) => `${one.date}: ${one.false_alarms} false alarms`).join("; ") || "never"],
      ["manifest", facts.manifest_hash ?? ""], ["settings", JSON.stringify(model.settings)],
    ];
    const table = element("table", {}, ...rows.map(([name, value]) => element("tr", {}, element("th", { textContent: name }), element("td", { textContent: value }))));
    return element("section", { className: "panel" }, element("h2", { textContent: model.name }), table);
  }));
}

// The page -----------------------------------------------------------------------------------------------

function connect() {
  const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/v1/machines/live`);
  shown.socket = socket;
  socket.onopen = () => { at("link").textContent = "live"; shown.wait = 500; if (shown.machine !== null) socket.send(String(shown.machine)); };
  socket.onmessage = (message) => {
    const told = JSON.parse(message.data);
    shown.heard = Object.fromEntries(told.machines.map((one) => [one.id, one.heard]));
    if (told.latest) { shown.latest = told.latest; showLive(); }
    showMachines(told.machines);
  };
  socket.onclose = () => {
    at("link").textContent = "not connected";
    setTimeout(connect, shown.wait);
    shown.wait = Math.min(2 * shown.wait, 30000);
  };
}

function turn() {
  const models = location.hash === "#models";
  at("models-page").hidden = !models;
  at("machines-page").hidden = models;
  if (models) showModels(); else refresh();
}

function theme(wanted) {
  if (wanted) document.documentElement.dataset.theme = wanted;
}

at("overlay").onchange = showLive;
at("span").onchange = refresh;
at("theme").onclick = () => {
  const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  localStorage.setItem("theme", dark ? "light" : "dark");
  theme(localStorage.getItem("theme"));
};
addEventListener("hashchange", turn);
addEventListener("resize", refresh);
setInterval(refresh, 2000);
theme(localStorage.getItem("theme"));
connect();
turn();

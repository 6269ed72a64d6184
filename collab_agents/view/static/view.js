// Keys: j and k go to the next and the previous page, u up; arrows move between turns and candidates.
"use strict";

function follow(relation) {
  const link = document.querySelector(`a[rel="${relation}"]`);
  if (link) link.click();
}

function candidates(turn) {
  return [...turn.querySelectorAll("[data-candidate]")];
}

function move(across, down) {
  const turns = [...document.querySelectorAll("[data-turn]")];
  if (!turns.length) return false;
  const current = document.activeElement.closest("[data-candidate]");
  let target;
  if (!current) {
    target = turns[0].querySelector(".chosen") || candidates(turns[0])[0];
  } else if (across) {
    const row = candidates(current.closest("[data-turn]"));
    target = row[row.indexOf(current) + across];
  } else {
    const turn = turns[turns.indexOf(current.closest("[data-turn]")) + down];
    target = turn && (turn.querySelector(".chosen") || candidates(turn)[0]);
  }
  if (!target) return false;
  target.focus();
  target.scrollIntoView({ block: "nearest" });
  return true;
}

function toggle() {
  const current = document.activeElement;
  if (!current.matches("[data-candidate]")) return false;
  const futures = [...current.querySelectorAll(":scope > details.future")];
  const open = futures.every((one) => one.open);
  for (const one of futures) one.open = !open;
  return true;
}

const keys = {
  j: () => follow("next"),
  k: () => follow("prev"),
  u: () => follow("up"),
  ArrowLeft: () => move(-1, 0),
  ArrowRight: () => move(1, 0),
  ArrowUp: () => move(0, -1),
  ArrowDown: () => move(0, 1),
  Enter: toggle,
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, .scroll")) return;
  const act = keys[event.key];
  if (act && act() !== false) event.preventDefault();
});

document.addEventListener("htmx:sendError", () => { document.getElementById("lost").hidden = false; });
document.addEventListener("htmx:afterOnLoad", () => { document.getElementById("lost").hidden = true; });

// What was typed or chosen before the scripts had loaded, or restored by the browser, counts too.
function changed(field) {
  if (field.type === "checkbox") return field.checked !== field.defaultChecked;
  if (field.matches("select")) return field.value !== ([...field.options].find((one) => one.defaultSelected) || field.options[0]).value;
  return field.value !== field.defaultValue;
}

document.addEventListener("htmx:load", (event) => {
  if (event.detail.elt !== document.body) return;
  for (const form of document.querySelectorAll("form[hx-get]")) {
    if ([...form.querySelectorAll("input:not([type=hidden]), select")].some(changed)) htmx.trigger(form, "input");
  }
});

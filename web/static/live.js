// Refreshes the live part of the page: every two seconds, while somebody looks and nobody has selected text.
// Without this script the page is complete all the same and a reload refreshes it.
(() => {
  "use strict";
  const EVERY = 2000;
  const region = document.getElementById("live");
  const toggle = document.getElementById("switch");
  const dot = document.getElementById("pulse");
  const said = document.getElementById("said");
  let on = true;
  let lost = false;
  let headline = document.getElementById("headline").textContent;

  const show = () => {
    toggle.setAttribute("aria-pressed", String(on));
    toggle.textContent = lost ? "Connection lost" : on ? "Live" : "Paused";
    dot.className = "pulse " + (lost ? "lost" : on ? "on" : "off");
  };

  const beat = () => {
    const selection = document.getSelection();
    if (on && !document.hidden && (!selection || selection.isCollapsed)) htmx.trigger(region, "pulse");
  };

  toggle.hidden = false;
  toggle.addEventListener("click", () => {
    on = !on;
    show();
    beat();
  });
  document.addEventListener("visibilitychange", beat);
  document.body.addEventListener("htmx:afterSwap", () => {
    lost = false;
    show();
    const now = document.getElementById("headline").textContent;
    if (now !== headline) said.textContent = headline = now; // only a change is worth interrupting for
  });
  for (const failure of ["htmx:sendError", "htmx:timeout", "htmx:responseError"]) {
    document.body.addEventListener(failure, () => {
      lost = true;
      show();
    });
  }
  show();
  setInterval(beat, EVERY);
})();

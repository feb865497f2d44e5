"use strict";
// The page is whole without this script. It adds the slider, and the details of the token in focus.
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const samples = read("samples"), words = read("words");
  const articles = [...document.querySelectorAll("article")];
  const tokens = articles.map((article) => [...article.querySelectorAll(".t")]);
  const panel = document.getElementById("panel");
  let stage = samples.steps.length - 1, focused = null;

  const wording = (judged, i) => words[judged.verdicts[i]] + (judged.odds ? ` (${judged.odds[i]}\u00a0%)` : "");

  // --- the slider: write another checkpoint's figures into the page
  function showGuesses(table, guesses, original) {
    [...table.rows].forEach((row, rank) => {
      const [text, share] = guesses[rank];
      row.cells[0].textContent = text.trim();
      row.cells[1].textContent = `${share}\u00a0%`;
      row.style.setProperty("--w", share);
      row.classList.toggle("hit", text === original);
    });
  }

  function showPassage(k) {
    const shown = samples.passages[k], judged = samples.steps[stage].passages[k];
    tokens[k].forEach((token, i) => {
      token.classList.remove(...Object.keys(words));
      token.classList.add(judged.verdicts[i]);
      if (judged.odds) token.style.setProperty("--p", judged.odds[i]);
    });
    shown.masked.forEach((i, n) => {
      const token = tokens[k][i], card = document.getElementById(`g${k}-${n}`);
      token.classList.toggle("same", judged.put[n] === shown.tokens[i]);
      for (const part of [token, card]) part.querySelector(".put").textContent = judged.put[n].trim();
      token.querySelector(".verdict").textContent = `: ${wording(judged, i)}`;
      card.querySelector(".chance").textContent = judged.chance[n];
      if (judged.odds) card.querySelector(".verdict").textContent = wording(judged, i);
      const tables = card.querySelectorAll("table");
      showGuesses(tables[0], judged.from_position[n], shown.tokens[i]);
      if (tables[1]) showGuesses(tables[1], judged.from_boundaries[n], shown.tokens[i]);
    });
  }

  const slider = document.getElementById("stage");
  slider.hidden = samples.steps.length < 2;
  slider.value = stage; // a browser may restore another
  slider.addEventListener("input", () => {
    stage = Number(slider.value);
    const { label, summary } = samples.steps[stage];
    slider.setAttribute("aria-valuetext", label);
    document.getElementById("stage-name").textContent = label;
    document.querySelectorAll("#counts dd").forEach((count, i) => { count.textContent = summary[i][1]; });
    articles.forEach((_, k) => showPassage(k));
    if (focused) fillPanel(focused);
  });

  // --- the details of a token
  function fillPanel(token) {
    const k = tokens.findIndex((row) => row.includes(token)), i = tokens[k].indexOf(token);
    const shown = samples.passages[k], judged = samples.steps[stage].passages[k];
    const n = shown.masked.indexOf(i), parts = [];
    if (n >= 0) {
      parts.push(...document.getElementById(`g${k}-${n}`).cloneNode(true).childNodes);
    } else {
      const line = document.createElement("p"), name = document.createElement("strong");
      name.textContent = shown.tokens[i].trim();
      name.lang = "";
      line.append(name, ` Discriminator: ${wording(judged, i)}`);
      parts.push(line);
    }
    const close = document.createElement("button");
    close.type = "button";
    close.textContent = "×";
    close.setAttribute("aria-label", "Close");
    close.addEventListener("click", hidePanel);
    panel.replaceChildren(close, ...parts);
    panel.hidden = false;
    document.body.classList.add("open");
    focused = token;
  }

  function hidePanel() {
    if (panel.contains(document.activeElement)) focused?.focus();
    panel.hidden = true;
    document.body.classList.remove("open");
    focused = null;
  }

  document.querySelector(".keys").hidden = false;
  articles.forEach((article, k) => {
    const group = article.querySelector(".tokens");
    const move = (from, to) => {
      from.tabIndex = -1;
      to.tabIndex = 0;
      to.focus();
    };
    tokens[k].forEach((token, i) => {
      token.setAttribute("role", "button");
      token.tabIndex = i === 0 ? 0 : -1; // one stop for each passage; arrows move within
    });
    const tokenOf = (event) => event.target.closest(".t");
    group.addEventListener("focusin", (event) => {
      const token = tokenOf(event);
      group.querySelector("[tabindex='0']").tabIndex = -1;
      token.tabIndex = 0;
      fillPanel(token);
    });
    group.addEventListener("mouseover", (event) => {
      if (tokenOf(event) && !group.contains(document.activeElement)) fillPanel(tokenOf(event));
    });
    group.addEventListener("click", (event) => {
      const token = tokenOf(event);
      if (!token) return;
      event.preventDefault(); // the details are in the panel; without this script the link leads to them
      token.focus();
      fillPanel(token);
    });
    group.addEventListener("keydown", (event) => {
      const token = tokenOf(event), i = tokens[k].indexOf(token), last = tokens[k].length - 1;
      const forward = getComputedStyle(group).direction === "rtl" ? -1 : 1;
      const target = {
        ArrowRight: i + forward, ArrowLeft: i - forward, Home: 0, End: last,
      }[event.key];
      if (target === undefined) {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); fillPanel(token); }
        return;
      }
      event.preventDefault();
      move(token, tokens[k][Math.min(Math.max(target, 0), last)]);
    });
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && !panel.hidden) hidePanel(); });
})();

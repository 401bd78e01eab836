"use strict";

// Cards are filtered by words (of their tokens, near ones included, and of the real texts) and by label.
for (const form of document.querySelectorAll("[data-filter]")) {
  const words = form.querySelector("[data-words]"), label = form.querySelector("[data-label]"), count = form.querySelector("[data-count]");
  const none = document.querySelector("[data-none]"), cards = [...document.querySelectorAll(".card")];
  const texts = cards.map((card) => card.textContent.toLowerCase());
  const filter = () => {
    const wanted = words.value.trim().toLowerCase();
    let shown = 0;
    cards.forEach((card, index) => {
      card.hidden = !(texts[index].includes(wanted) && (!label.value || card.dataset.of === label.value));
      shown += card.hidden ? 0 : 1;
      for (const button of card.querySelectorAll("[data-positions] button"))
        button.classList.toggle("hit", wanted !== "" && button.dataset.words.toLowerCase().includes(wanted));
    });
    count.textContent = shown === cards.length ? `${shown} examples` : `${shown} of ${cards.length} examples`;
    none.hidden = shown > 0;
  };
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", filter);
  filter();
}

// Positions are one stop of the tab key; arrows, Home and End move among them. The chosen one's tokens are spelled out, taken from the table.
for (const group of document.querySelectorAll("[data-positions]")) {
  const card = group.closest(".card"), told = card.querySelector("[data-chosen]"), buttons = [...group.querySelectorAll("button")];
  const rows = [...card.querySelectorAll(".tokens tbody tr")];
  const choose = (index) => {
    buttons.forEach((button, other) => {
      button.tabIndex = other === index ? 0 : -1;
      button.setAttribute("aria-pressed", String(other === index));
    });
    const near = [...rows[index].querySelectorAll("span")].map((token) => token.textContent).join(", ");
    told.textContent = `Position ${index + 1}: ${near}`;
    told.hidden = false;
  };
  group.addEventListener("click", (event) => {
    const index = buttons.indexOf(event.target.closest("button"));
    if (index >= 0) choose(index);
  });
  group.addEventListener("keydown", (event) => {
    const moves = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -buttons.length, End: buttons.length };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const index = Math.min(Math.max(buttons.indexOf(document.activeElement) + moves[event.key], 0), buttons.length - 1);
    buttons[index].focus();
    choose(index);
  });
}

// Above a table that is wider than its place stands how to see the rest.
for (const told of document.querySelectorAll("[data-more]")) {
  const region = told.nextElementSibling;
  new ResizeObserver(() => { told.hidden = region.scrollWidth <= region.clientWidth; }).observe(region);
}

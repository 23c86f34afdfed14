"use strict";
const form = document.getElementById("reset-form");
const problem = document.getElementById("reset-problem");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  problem.textContent = "";
  if (form.elements.new.value !== form.elements.again.value) {
    problem.textContent = "The two passwords are different.";
    return;
  }
  const token = decodeURIComponent(location.pathname.split("/").filter(Boolean).at(-1) ?? "");
  try {
    const response = await fetch("/api/user/", {
      method: "PUT",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ token, password: form.elements.new.value }),
      signal: AbortSignal.timeout(15000),
    });
    const answer = await response.json().catch(() => null);
    if (!response.ok) throw new Error(answer?.message ?? response.statusText);
    form.hidden = true;
    document.getElementById("reset-result").textContent = "The password is changed. Log in with the new one.";
  } catch (error) {
    problem.textContent = error.message;
  }
});

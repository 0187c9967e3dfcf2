// Requests to the server. A refusal becomes an Error with the server's sentence; without a session the login page opens.

async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("the server does not answer");
  }
  if (response.status === 401) location.assign("/login");
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  throw Object.assign(new Error(problem.detail ?? `the server answered ${response.status}`), {
    status: response.status,
    problem,
  });
}

// No content is an answer too: there is none yet.
export async function get(path) {
  const response = await request(path);
  return response.status === 204 ? null : response.json();
}

const posted = (path, body) =>
  request(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-RaceAlpha": "1" },
    body: JSON.stringify(body),
  });

export const post = async (path, body = {}) => (await posted(path, body)).json();

// Saves an answer as a file.
export async function download(path, body, name) {
  const file = URL.createObjectURL(await (await posted(path, body)).blob());
  const link = Object.assign(document.createElement("a"), { href: file, download: name });
  link.click();
  URL.revokeObjectURL(file);
}

// Tells that the token was wrong: the page that answers a login is this one again, under the form's address.
document.getElementById("wrong").hidden = performance.getEntriesByType("navigation")[0]?.responseStatus !== 401;

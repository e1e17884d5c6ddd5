// What the flows of matrix-js-sdk share: clients, and waiting for what they tell.

import * as sdk from "matrix-js-sdk";

export const PASSWORD = "correct horse battery";

const silent = new Proxy({}, { get: () => () => silent });

export function client(baseUrl, user) {
  return sdk.createClient({
    baseUrl,
    logger: silent,
    userId: user?.user_id,
    deviceId: user?.device_id,
    accessToken: user?.access_token,
  });
}

export function register(baseUrl, username) {
  return client(baseUrl).registerRequest({
    username,
    password: PASSWORD,
    auth: { type: "m.login.dummy" },
  });
}

export function waitFor(emitter, event, wanted, what) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`waited in vain for ${what}`)), 15000);
    const listener = (...args) => {
      if (!wanted(...args)) return;
      clearTimeout(timer);
      emitter.off(event, listener);
      resolve(args);
    };
    emitter.on(event, listener);
  });
}

export async function start(baseUrl, user, options = {}) {
  const one = client(baseUrl, user);
  const prepared = waitFor(one, "sync", (state) => state === "PREPARED", "the first sync");
  await one.startClient({ initialSyncLimit: 20, ...options });
  await prepared;
  return one;
}

export const message = (wanted) => (event) =>
  event.getType() === "m.room.message" && event.getContent().body === wanted;

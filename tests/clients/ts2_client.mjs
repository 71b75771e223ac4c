// One session of the official TypeScript SDK, 2.x line, in either era, driven by JSON lines; see driver.mjs.
// Usage: node ts2_client.mjs <directory that holds node_modules>
import { createRequire } from 'node:module';
import path from 'node:path';

import { serve, versionOf } from './driver.mjs';

const require = createRequire(path.join(process.argv[2], 'package.json'));
const { Client, StreamableHTTPClientTransport } = require('@modelcontextprotocol/client');

const MODES = { legacy: 'legacy', auto: 'auto', modern: { pin: '2026-07-28' } };
const NOTIFICATIONS = [
  'notifications/tools/list_changed',
  'notifications/prompts/list_changed',
  'notifications/resources/list_changed',
  'notifications/resources/updated',
  'notifications/message',
];
const listens = new Map();

serve({
  sdk: versionOf(process.argv[2], '@modelcontextprotocol/client'),
  Transport: StreamableHTTPClientTransport,

  async connect(transport, mode, hooks) {
    const client = new Client(
      { name: 'ts2', version: '1' },
      { capabilities: { elicitation: { form: {} }, sampling: {} }, versionNegotiation: { mode: MODES[mode] } },
    );
    client.onerror = hooks.onFault;
    for (const method of NOTIFICATIONS) {
      client.setNotificationHandler(method, ({ params }) => hooks.onNotification(method, params));
    }
    client.setRequestHandler('elicitation/create', ({ params }) => hooks.onElicit(params));
    client.setRequestHandler('sampling/createMessage', ({ params }) => hooks.onSample(params));
    await client.connect(transport);
    return client;
  },

  protocol: (client) => client.getNegotiatedProtocolVersion(),
  call: (client, params, options) => client.callTool(params, options),

  // A request on the old protocol, a stream of its own on the modern one.
  async subscribe(client, uri, hooks) {
    if (client.getProtocolEra() !== 'modern') {
      await client.subscribeResource({ uri });
      return;
    }
    const listen = await client.listen({ resourceSubscriptions: [uri] });
    listens.set(uri, listen);
    listen.closed.then((cause) => hooks.onSubscriptionEnd(uri, cause === 'graceful' ? 'graceful' : 'lost'));
  },

  async unsubscribe(client, uri) {
    const listen = listens.get(uri);
    await (listen ? listen.close() : client.unsubscribeResource({ uri }));
    listens.delete(uri);
  },
});

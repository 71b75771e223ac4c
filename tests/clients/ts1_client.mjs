// One session of the official TypeScript SDK, 1.x line, driven by JSON lines; see driver.mjs.
// Usage: node ts1_client.mjs <directory that holds node_modules>
import { createRequire } from 'node:module';
import path from 'node:path';

import { serve, versionOf } from './driver.mjs';

const require = createRequire(path.join(process.argv[2], 'package.json'));
const { Client } = require('@modelcontextprotocol/sdk/client/index.js');
const { StreamableHTTPClientTransport } = require('@modelcontextprotocol/sdk/client/streamableHttp.js');
const types = require('@modelcontextprotocol/sdk/types.js');

const LIST_CHANGES = [
  types.ToolListChangedNotificationSchema,
  types.PromptListChangedNotificationSchema,
  types.ResourceListChangedNotificationSchema,
  types.ResourceUpdatedNotificationSchema,
  types.LoggingMessageNotificationSchema,
];

serve({
  sdk: versionOf(process.argv[2], '@modelcontextprotocol/sdk'),
  Transport: StreamableHTTPClientTransport,

  async connect(transport, mode, hooks) {
    if (mode !== 'legacy') {
      throw new Error(`the 1.x line has no mode ${mode}`);
    }
    const client = new Client({ name: 'ts1', version: '1' }, { capabilities: { elicitation: {}, sampling: {} } });
    client.onerror = hooks.onFault;
    for (const schema of LIST_CHANGES) {
      client.setNotificationHandler(schema, ({ method, params }) => hooks.onNotification(method, params));
    }
    client.setRequestHandler(types.ElicitRequestSchema, ({ params }) => hooks.onElicit(params));
    client.setRequestHandler(types.CreateMessageRequestSchema, ({ params }) => hooks.onSample(params));
    await client.connect(transport);
    return client;
  },

  protocol: (_, transport) => transport.protocolVersion,
  call: (client, params, options) => client.callTool(params, undefined, options),
  subscribe: (client, uri) => client.subscribeResource({ uri }),
  unsubscribe: (client, uri) => client.unsubscribeResource({ uri }),
});

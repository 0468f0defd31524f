// SPDX-License-Identifier: MIT OR GPL-2.0
// An I2C device with one property, as a device tree would describe it. A PC has no device tree, and some of the kernel's
// drivers take no chip whose shunt nobody tells them: modprobe described bus=0 addr=0x50 name=ltc4282 property=... value=...
#include <linux/err.h>
#include <linux/i2c.h>
#include <linux/module.h>
#include <linux/property.h>

static int bus;
static ushort addr;
static uint value;
static char *name, *property;
module_param(bus, int, 0);
module_param(addr, ushort, 0);
module_param(name, charp, 0);
module_param(property, charp, 0);
module_param(value, uint, 0);

static struct i2c_client *client;

static int __init described_init(void)
{
	struct property_entry properties[] = { PROPERTY_ENTRY_U32(property, value), {} };
	struct fwnode_handle *node = fwnode_create_software_node(properties, NULL);
	struct i2c_adapter *adapter = i2c_get_adapter(bus);
	struct i2c_board_info info = { .addr = addr };

	if (IS_ERR(node) || !adapter)
		return -ENODEV;
	info.swnode = to_software_node(node);
	strscpy(info.type, name, sizeof(info.type));
	client = i2c_new_client_device(adapter, &info);
	i2c_put_adapter(adapter);
	return PTR_ERR_OR_ZERO(client);
}

static void __exit described_exit(void)
{
	i2c_unregister_device(client);
}

module_init(described_init);
module_exit(described_exit);
MODULE_DESCRIPTION("I2C device with one property");
MODULE_LICENSE("Dual MIT/GPL");

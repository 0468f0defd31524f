# In: MQTT payloads, one a line, among them a birth and telemetry. Out: "seq N", "serial TEXT", then "KEY VALUE" for each reading
# of the latest telemetry, KEY being LIST.NAME or LIST.NAME.FIELD; the names stand in the birth's lists, at the same places. What
# is true or false is 1 or 0, as in hwmon; so are faults.REFDES.FAULT and through_kernel.REFDES.
def faults: ["over_voltage", "under_voltage", "over_current", "under_current", "over_power", "temperature", "fan", "input",
  "power_good", "off", "communication", "watchdog", "other"]; # bits of a chip's faults

[inputs | fromjson?] as $messages
| ($messages | map(select(.kind == "birth")) | last) as $birth
| ($messages | map(select(.kind == "telemetry")) | last) as $telemetry
| select($birth and $telemetry)
| "seq \($telemetry.seq)", "serial \($birth.body.serial // "none")",
  ( $telemetry.body | to_entries[] | select($birth.body[.key] | type == "array")
    | .key as $list | .value | to_entries[]
    | [$list, $birth.body[$list][.key].name] as $name
    | .value as $reading | [], ($reading | paths) | . as $path
    | $reading | getpath($path) | if type == "boolean" then (if . then 1 else 0 end) else . end
    | select(type == "number" or type == "string")
    | "\($name + $path | map(tostring) | join(".")) \(.)" ),
  ( $birth.body.chips | to_entries[] | .key as $index | .value.refdes as $refdes
    | ([$telemetry.body.troubles[] | select(.chip == $index).faults] | first // 0) as $bits
    | faults | to_entries[]
    | "faults.\($refdes).\(.value) \($bits / pow(2; .key) | floor % 2)" ),
  ( $birth.body.chips | to_entries[] | .key as $index
    | "through_kernel.\(.value.refdes) \([$telemetry.body.through_kernel[] | select(. == $index)] | length)" )

// What a program says of one of its calls, and where that is kept. The attributes are XLA's (ffi.h), or
// Python's (host_sites.cc) where JAX calls in XLA's place.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "call.h"
#include "loops.h"

namespace callbax {

// The callee that an attribute names, of the kind that this call is for; null if there is none.
template <class Kind, class Attributes>
std::shared_ptr<Kind> ReadCallee(const Attributes& attributes, const char* attribute,
                                 std::string* why) {
  std::string name;
  attributes.Read(attribute, &name);
  const CalleePtr callee = ResolveCallee(name, why);
  auto wanted = std::dynamic_pointer_cast<Kind>(callee);
  if (callee && !wanted) *why = name + ", which is called in another way";
  return wanted;
}

// False, with the reason, if there is no callee.
template <class Attributes>
bool ReadSite(const Attributes& attributes, CallSite* site, std::string* why) {
  attributes.Read("fence", &site->fence);
  if (site->fence) return true;
  attributes.Read("flavour", &site->flavour);
  attributes.Read("canonicalize", &site->canonicalize);
  attributes.Read("casting", &site->casting);
  attributes.Read("shared_run", &site->shared_run);
  attributes.Read("no_results", &site->no_results);
  attributes.Read("widened", &site->widened);
  attributes.Read("views", &site->views);
  attributes.Read("out", &site->out);
  attributes.Read("empty", &site->empty);
  attributes.Read("needs_pool", &site->needs_pool);
  attributes.Read("lanes", &site->lanes.sizes);
  attributes.Read("operand_lanes", &site->lanes.operand_axes);
  Settings settings;
  attributes.Read("configuration", &settings.configuration);
  site->callback = ReadCallee<Callback>(attributes, "callback", why);
  if (!site->callback) return false;
  settings.context = site->callback->Context();
  if (settings.context || !settings.configuration.empty()) {
    site->settings = std::make_shared<const Settings>(std::move(settings));
  }
  return true;
}

template <class Attributes>
bool ReadSite(const Attributes& attributes, LoopSite* site, std::string* why) {
  attributes.Read("errors", &site->policy);
  attributes.Read("serial", &site->serial);
  attributes.Read("widened", &site->widened);
  site->loop = ReadCallee<Loop>(attributes, "loop", why);
  return site->loop != nullptr;
}

// A new site with the number of its call, if its program runs on several devices.
template <class Site, class Attributes>
std::unique_ptr<Site> NewSite(const Attributes& attributes, std::string* why) {
  auto site = std::make_unique<Site>();
  bool shared_run = false;
  attributes.Read("shared_run", &shared_run);
  if (shared_run) site->number = ++numbered_calls;
  return ReadSite(attributes, site.get(), why) ? std::move(site) : nullptr;
}

}  // namespace callbax
